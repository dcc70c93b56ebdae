"""What is generated, image by image: the prompts, seeds and sampling of a batch, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs
import torch
from attrs import frozen

from scalekv_core.errors import InputError, shortened
from scalekv_core.memory.batch import Batch
from scalekv_core.models.card import ModelCard
from scalekv_core.models.requests import check_prompts, check_seeds
from scalekv_core.models.sampling import Sampling


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
    def columns(self) -> int:
        """Of a sheet of its images: one for each seed, or, where all have one seed, for each prompt."""
        seeds = len(set(self.seeds))
        return seeds if seeds > 1 else len(self.prompts)

    @classmethod
    def of(
        cls,
        model: str,
        card: ModelCard,
        images: Sequence[tuple[str, int]],
        *,
        sampling: Sampling,
        dtype: torch.dtype,
        **how: Any,
    ) -> Job:
        """A job for one batch.

        Args:
            model, card: the model's name and card.
            images: prompt and seed of each.
            sampling, dtype: how tokens are sampled; in which dtype the model runs.
            **how: aspect, size and random_weights of the :class:`~scalekv_core.memory.batch.Batch`.

        Raises:
            InputError: the model does not generate such images, or not with this sampling.
        """
        guidance = card.rows_of(sampling) > 1
        batch = Batch(model=model, card=card, images=len(images), guidance=guidance, dtype=dtype, **how)
        card.check_sampling(sampling, batch.geometry)
        return cls(
            prompts=tuple(p for p, _ in images), seeds=tuple(s for _, s in images), sampling=sampling, batch=batch
        )

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


def every_seed(model: str, prompts: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Prompt and seed of each image, where every prompt has every seed; InputError if a prompt is no text.

    >>> every_seed("toy", ["3", "7"], [0, 1])
    [('3', 0), ('3', 1), ('7', 0), ('7', 1)]
    """
    return [(prompt, seed) for prompt in check_prompts(model, prompts) for seed in seeds]


def seeds_of(seeds: int | Sequence[int] | None, images: int | None, *, who: str) -> list[int]:
    """One seed per image of a prompt.

    Args:
        seeds: the first one, or one per image; None is 0.
        images: of each prompt; None is as many as there are seeds.
        who: asks for them, for the message.

    >>> seeds_of([7], 3, who="--seed"), seeds_of([1, 5], None, who="--seed")
    ([7, 8, 9], [1, 5])
    """
    given = (
        list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else [0 if seeds is None else seeds]
    )
    check_images(images, who=who)
    if not given:
        raise InputError(f"{who} needs at least one seed; got none")
    given = check_seeds(given, len(given), who=who)
    if len(given) == 1:
        given = [given[0], given[0] + (images or 1) - 1]
        first, last = check_seeds(given, len(given), who=who)
        return list(range(first, last + 1))
    if images not in (None, len(given)):
        raise InputError(
            f"{images} images of each prompt need one seed (of the first image) or {images}; got {len(given)}"
        )
    return given


def check_images(images: int | None, *, who: str) -> None:
    """Raises InputError unless the images of each prompt are a whole number of at least 1, or None."""
    if images is not None and (isinstance(images, bool) or not isinstance(images, int) or images < 1):
        raise InputError(f"{who} generates at least 1 image of each prompt; got {shortened(images)}")
