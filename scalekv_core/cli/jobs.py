"""From the arguments of a command to the job that it is: prompts, seeds and sampling options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from attrs import field, frozen

from scalekv_core.cli import defaults
from scalekv_core.cli.arguments import SamplingOptions, Shape
from scalekv_core.cli.installed import model_card, the_registry
from scalekv_core.errors import InputError, shortened
from scalekv_core.models.requests import check_prompts
from scalekv_core.models.sampling import Sampling, read_places, read_strengths
from scalekv_core.pipeline.job import Job, every_seed, seeds_of


@frozen(kw_only=True)
class Request:
    """What the command line asks for.

    Attributes:
        prompts: None or empty is the model's own example.
        seeds: the first one, or one per image of a prompt.
        images: of each prompt.
        paired: one seed for each prompt, in order, instead of every seed for every prompt.
        shape: aspect ratio and size.
        random_weights: whether the model generates noise.
    """

    prompts: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    images: int | None = None
    paired: bool = False
    shape: Shape = field(factory=Shape)
    random_weights: bool = False


def model_for(prompts: Sequence[str] | None) -> str:
    """The model that ships with weights and accepts these prompts; without prompts the default one.

    Raises:
        InputError: there is none, or not one for all of them.
    """
    if not prompts:
        return defaults.MODEL
    cards = {name: model_card(name) for name in the_registry().names("model")}
    shipped = {name: card for name, card in cards.items() if not card.needs_weights}
    fitting = [name for name, card in shipped.items() if all(card.accepts(prompt) for prompt in prompts)]
    if not fitting:
        listed = ", ".join(f"{name} (like {card.example!r})" for name, card in shipped.items() if card.example)
        which = "accepts" if len(prompts) == 1 else "accepts all of"
        raise InputError(
            f"no model that ships with weights {which} {', '.join(map(shortened, prompts))}; there is {listed}; "
            "for any other give --model"
        )
    return fitting[0]


def sampling_of(model: str, options: SamplingOptions) -> Sampling:
    """The model's sampling, with what was given changed.

    Raises:
        InputError: a value is out of range, or not a number.
    """
    return attrs.evolve(model_card(model).sampling, **sampling_changes(options))


def sampling_changes(options: SamplingOptions) -> dict[str, Any]:
    """{field: value} of a sampling that were given.

    Raises:
        InputError: a guidance is not a number, or its place not a whole one.
    """
    changes = attrs.asdict(options)
    if options.guidance is not None:
        changes["guidance"] = read_strengths(options.guidance)
    if options.guidance_at is not None:
        changes["guidance_at"] = read_places(options.guidance_at)
    return {name: value for name, value in changes.items() if value is not None and value is not False}


def job_of(model: str, request: Request, *, sampling: Sampling, dtype: torch.dtype) -> Job:
    """Every prompt with every seed, or the first prompt with the first seed and so on.

    Raises:
        InputError: there is nothing to generate, a prompt is not text, the numbers of seeds and images do not agree, or
            the model does not generate such images or not with this sampling.
    """
    card = model_card(model)
    if not request.prompts and not card.example:
        raise InputError(f"model {model!r} has no example; name a prompt: scalekv generate PROMPT ...")
    prompts = check_prompts(model, request.prompts or [card.example])
    seeds = seeds_of(request.seeds or None, request.images, who="--seed")
    if request.paired and (request.images is not None or len(seeds) != len(prompts)):
        raise InputError(
            f"--paired needs one --seed for each of {len(prompts)} prompts, and no --images; got {len(seeds)} seeds"
        )
    images = list(zip(prompts, seeds, strict=True)) if request.paired else every_seed(model, prompts, seeds)
    shape = attrs.asdict(request.shape)
    return Job.of(model, card, images, sampling=sampling, dtype=dtype, random_weights=request.random_weights, **shape)
