"""Generating images scale by scale: the loop of all families.

A family says what happens at one scale (`ImageBatch`). The loop is apart from it because it is what a study changes: which
tokens go in (the model's own or forced ones), with which noise, and what is written down on the way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import ClassVar, Protocol

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.sampling import image_generators
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.models.finite import FiniteLogits
from scalekv_core.models.image_model import Generation
from scalekv_core.models.requests import Seeds
from scalekv_core.shapes.schedule import ScaleSchedule


@frozen(eq=False, kw_only=True)
class Step:
    """What happened at one scale.

    Attributes:
        scale: which one, from 0.
        logits: (B, n, V) float32 after guidance, before temperature and filters.
        choices: (B, n) or (B, n, bits): what the model chose.
        tokens: the same shape: what went into the loop; not the choices where they were forced.
        total: (B, d, H, W) the sum of the codes after this scale, which the image decoder shows.
    """

    scale: int
    logits: Tensor
    choices: Tensor
    tokens: Tensor
    total: Tensor


class MakesCaches(Protocol):
    """A transformer with a seam for a cache."""

    new_cache: Callable[[ScaleSchedule], AttentionCache]
    """Makes the cache of one generation from its schedule; a session puts its own in its place."""


class ImageBatch(ABC):
    """B images that are being generated: what their family computes at each scale.

    Attributes:
        family: for messages.
        model: the transformer.
        schedule: the maps of each image.
        images: B.
        total: (B, d, H, W) the sum of the codes so far.
    """

    family: ClassVar[str]
    model: MakesCaches
    schedule: ScaleSchedule
    images: int
    total: Tensor

    @property
    def passes(self) -> int:
        """How many steps there are: one for each map, unless a family has text in front or passes maps several times."""
        return len(self.schedule)

    @abstractmethod
    def check_forced(self, forced: Sequence[Tensor]) -> None:
        """Raises InputError unless these can replace the choices at the first scales (`scalekv_adapters.inputs`)."""

    @abstractmethod
    def logits(self, scale: int, cache: AttentionCache) -> Tensor:
        """Logits (B, n, V), float32, of the map of this scale, after guidance; `total` holds the maps before it."""

    @abstractmethod
    def choose(self, logits: Tensor, scale: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        """Tokens (B, n) or (B, n, bits) of logits: the likeliest ones, or sampled with one generator per image."""

    @abstractmethod
    def with_map(self, tokens: Tensor, scale: int) -> Tensor:
        """`total` with the map of this scale, a new tensor."""

    @abstractmethod
    def pictures(self, total: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of a sum of codes, such as that of a step."""


def steps(
    batch: ImageBatch,
    cache: AttentionCache,
    generators: Sequence[torch.Generator] | None,
    forced: Sequence[Tensor] = (),
) -> Iterator[Step]:
    """Generates a batch; one step per scale. The arguments are checked ones, see `generate`."""
    for scale in range(batch.passes):
        logits = batch.logits(scale, cache)
        choices = batch.choose(logits, scale, generators)
        tokens = forced[scale].to(choices.device) if scale < len(forced) else choices
        batch.total = batch.with_map(tokens, scale)
        yield Step(scale=scale, logits=logits, choices=choices, tokens=tokens, total=batch.total)


@torch.no_grad()
def generate(
    batch: ImageBatch,
    *,
    seeds: Seeds | None,
    forced: Sequence[Tensor] = (),
    on_scale: Callable[[Step], None] | None = None,
    keep_logits: bool = False,
) -> Generation:
    """Generates to the end and closes the cache, also after a failure; images are decoded after the cache is freed.

    Args:
        batch: not begun yet.
        seeds: one per image, or None for the likeliest tokens. An image depends on its prompt and its seed, not on the
            images beside it.
        forced: tokens that replace the model's choices at the first len(forced) scales; the noise of later scales stays
            what it was.
        on_scale: called after every scale.
        keep_logits: also return the logits.

    Raises:
        InputError: a seed or forced map that does not fit.
        NonFiniteError: the logits of a scale are not finite.
    """
    batch.check_forced(forced)
    generators = image_generators(seeds, batch.images)
    tokens, choices, logits, finite = [], [], [], FiniteLogits(batch.family)
    with closing(batch.model.new_cache(batch.schedule)) as cache:
        for step in steps(batch, cache, generators, forced):
            finite.see(step.logits)
            if on_scale is not None:
                on_scale(step)
            tokens.append(step.tokens)
            choices.append(step.choices)
            if keep_logits:
                logits.append(step.logits)
        finite.check()
    return Generation(
        images=batch.pictures(step.total),
        tokens=tuple(tokens),
        choices=tuple(choices),
        logits=tuple(logits) if keep_logits else None,
    )
