"""From prompts, seeds and sampling options to what is generated, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from attrs import field, frozen

from scalekv_core.cli import defaults
from scalekv_core.cli.arguments import SamplingOptions, Shape
from scalekv_core.cli.installed import model_card, the_registry
from scalekv_core.errors import InputError
from scalekv_core.memory.batch import Batch
from scalekv_core.models.requests import check_prompts, check_seeds, shortened
from scalekv_core.models.sampling import Sampling, read_places, read_strengths


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


@frozen(eq=False, kw_only=True)
class Job:
    """What is generated, image by image; the unmodified and every compressed run get the same.

    Attributes:
        prompts, seeds: one per image.
        sampling: how tokens are sampled.
        batch: the same for a planner: which model, how many images, how large, with guidance or without.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sampling: Sampling
    batch: Batch

    @property
    def rows(self) -> int:
        """Sequences in the batch."""
        return self.batch.geometry.rows

    def parts(self, images: int) -> Iterator[Job]:
        """The same in parts of at most so many images."""
        for start in range(0, len(self.prompts), images):
            prompts, seeds = self.prompts[start : start + images], self.seeds[start : start + images]
            yield attrs.evolve(self, prompts=prompts, seeds=seeds, batch=attrs.evolve(self.batch, images=len(prompts)))

    @property
    def labels(self) -> list[str]:
        """One per image: its prompt, and its seed where a prompt has several images."""
        several = len(set(self.seeds)) > 1
        return [f"{p}, seed {s}" if several else p for p, s in zip(self.prompts, self.seeds, strict=True)]


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
    seeds = seeds_of(request.seeds, request.images)
    if request.paired and (request.images is not None or len(seeds) != len(prompts)):
        raise InputError(
            f"--paired wants one --seed for each of {len(prompts)} prompts, and no --images; got {len(seeds)} seeds"
        )
    pairs = list(zip(prompts, seeds, strict=True)) if request.paired else [(p, s) for p in prompts for s in seeds]
    batch = Batch(
        model=model,
        card=card,
        images=len(pairs),
        guidance=card.rows_of(sampling) > 1,
        dtype=dtype,
        random_weights=request.random_weights,
        **attrs.asdict(request.shape),
    )
    card.check_sampling(sampling, batch.geometry)
    return Job(prompts=tuple(p for p, _ in pairs), seeds=tuple(s for _, s in pairs), sampling=sampling, batch=batch)


def seeds_of(seeds: Sequence[int] | None, images: int | None) -> list[int]:
    """One seed per image of a prompt.

    >>> seeds_of([7], 3), seeds_of([1, 5], None)
    ([7, 8, 9], [1, 5])
    """
    given = list(seeds or [0])
    if len(given) == 1:
        given = [given[0], given[0] + (images or 1) - 1]
        first, last = check_seeds(given, len(given), who="--seed")
        return list(range(first, last + 1))
    given = check_seeds(given, len(given), who="--seed")
    if images not in (None, len(given)):
        raise InputError(f"{images} images of each prompt want one seed (the first) or {images}; got {len(given)}")
    return given
