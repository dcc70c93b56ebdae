"""What stands in the fields of the page, and the same checked: everything is refused before a model is touched."""

from __future__ import annotations

import contextlib

import torch
from attrs import evolve, field, frozen

from scalekv_core.contracts.policy import Policy
from scalekv_core.errors import InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.requests import check_seeds
from scalekv_core.models.sampling import read_strengths
from scalekv_core.pipeline.job import Job, every_seed
from scalekv_core.plugins.registry import Registry


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


@frozen(kw_only=True)
class Form:
    """The fields as texts. An empty one leaves what the model or the policy has.

    Attributes:
        model, policy: names.
        budget: size of the cache, such as "10%", "650 tokens" or "4GiB".
        codec: how kept tokens are stored, by name.
        prompt: what to generate, in the model's language.
        seed: a whole number.
        guidance: its strength, or one per scale with commas between.
        aspect, size: of the image.
    """

    model: str = field(converter=_text)
    policy: str = field(converter=_text)
    budget: str = field(default="", converter=_text)
    codec: str = field(default="", converter=_text)
    prompt: str = field(default="", converter=_text)
    seed: str = field(default="", converter=_text)
    guidance: str = field(default="", converter=_text)
    aspect: str = field(default="", converter=_text)
    size: str = field(default="", converter=_text)


@frozen(eq=False, kw_only=True)
class Request:
    """A form that was checked: one image.

    Attributes:
        form: what was filled in.
        policy: with its codec exchanged, if one is named.
        budget: as text; None is the policy's own.
        job: prompt, seed, sampling and shape.
    """

    form: Form
    policy: Policy
    budget: str | None
    job: Job

    @property
    def prompt(self) -> str:
        """What is generated."""
        return self.job.prompts[0]

    @property
    def seed(self) -> int:
        """Of the image."""
        return self.job.seeds[0]


def read(form: Form, *, registry: Registry, dtype: torch.dtype) -> Request:
    """The request of a form.

    Args:
        form: the fields.
        registry: where names are looked up.
        dtype: in which the model runs.

    Raises:
        UnknownName, InputError: a name that is not there, or a value out of range; in the words of the command line.
    """
    policy = registry.policy(form.policy, codec=form.codec or None)
    card: ModelCard = registry.make("model", form.model)
    sampling = card.sampling
    if form.guidance:
        sampling = evolve(sampling, guidance=read_strengths(form.guidance))
    if not form.prompt and not card.example:
        raise InputError(f"model {form.model!r} has no example; write a prompt")
    images = every_seed(form.model, [form.prompt or card.example], [read_seed(form.seed)])
    job = Job.of(
        form.model, card, images, sampling=sampling, dtype=dtype, aspect=form.aspect or None, size=form.size or None
    )
    return Request(form=form, policy=policy, budget=form.budget or None, job=job)


def read_seed(text: str) -> int:
    """The seed that a text is; 0 if it is empty.

    >>> read_seed(""), read_seed("7")
    (0, 7)
    """
    seed: object = text or 0
    with contextlib.suppress(ValueError):
        seed = int(text or 0)
    return check_seeds([seed], 1, who="--seed")[0]  # type: ignore[list-item]  # what is no number is refused there
