"""Classifier-free guidance as Infinity does it: on the logits, or inside, on what a block puts out.

Inside, conditioned and unconditioned rows are mixed and both go on with the mix. The published code also accepts the
place 1, "on probabilities", and then applies no guidance at all; here that is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from attrs import frozen
from torch import Tensor

from scalekv_core.errors import InputError
from scalekv_core.models.sampling import ON_LOGITS, Sampling
from scalekv_core.shapes.geometry import CacheGeometry


@frozen
class Guidance:
    """Strengths and places of guidance, checked.

    Attributes:
        strengths: per scale; 1 leaves the conditioned rows as they are.
        layers: after which blocks rows are mixed, counted from 0.
        on_logits: whether logits are mixed.
    """

    strengths: tuple[float, ...]
    layers: frozenset[int]
    on_logits: bool

    @classmethod
    def of(cls, strength: float | Sequence[float], places: Iterable[int], *, scales: int, depth: int) -> Guidance:
        """Guidance of a model of so many blocks for so many scales.

        Args:
            strength: g in g * conditioned + (1 - g) * unconditioned, for all scales or one per scale; 1 or more, where 1,
                or 0 for short, generates without guidance.
            places: 0 is the logits, -n the output of the n-th block before the end of the list.
            scales, depth: of the schedule and the model.

        Raises:
            InputError: a strength out of range, not one per scale, or a place that does not exist.
        """
        strengths = per_scale("guidance", strength, scales)
        if wrong := [g for g in strengths if not (g == 0 or 1 <= g < inf)]:
            raise InputError(
                f"Infinity needs guidance of 1 or more (or 0 to generate without guidance); got {wrong[0]}"
            )
        places = tuple(places)
        if wrong_places := [place for place in places if not -depth < place <= ON_LOGITS]:
            raise InputError(
                f"Infinity applies guidance on the logits (0) or after a block (-1 to {1 - depth}); got {wrong_places[0]}"
            )
        if not places:
            raise InputError("Infinity needs at least one place to apply guidance at; got none (0 is the logits)")
        layers = frozenset(depth + place for place in places if place < ON_LOGITS)
        return cls(tuple(g or 1.0 for g in strengths), layers, ON_LOGITS in places)

    @property
    def used(self) -> bool:
        """Whether unconditioned rows are needed at any scale."""
        return any(g != 1 for g in self.strengths)

    def after_block(self, layer: int, h: Tensor, scale: int) -> Tensor:
        """What the next block gets, of hidden states (2B, n, C): conditioned rows first."""
        g = self.strengths[scale]
        return mixed(h, g).repeat(2, 1, 1) if g != 1 and layer in self.layers else h

    def conditioned(self, scale: int) -> bool:
        """Whether at this scale only the conditioned rows decide on the logits."""
        return self.strengths[scale] == 1 or not self.on_logits


def mixed(x: Tensor, strength: float) -> Tensor:
    """(B, n, ...) g * conditioned + (1 - g) * unconditioned, of rows (2B, n, ...): conditioned ones first.

    >>> import torch
    >>> mixed(torch.tensor([[[1.0]], [[0.5]]]), 3.0)
    tensor([[[2.]]])
    """
    conditioned, unconditioned = x.chunk(2)
    return strength * conditioned + (1 - strength) * unconditioned


def per_scale(what: str, value: float | Sequence[float], scales: int) -> tuple[float, ...]:
    """One number per scale; InputError if as many were not given.

    >>> per_scale("guidance", 3, 2)
    (3.0, 3.0)
    """
    if isinstance(value, (int, float)):
        return (float(value),) * scales
    if len(value) != scales:
        raise InputError(f"Infinity needs one {what} for all {scales} scales or one per scale; got {len(value)}")
    return tuple(float(one) for one in value)


def rows_of(sampling: Sampling) -> int:
    """Sequences in the batch for each image: guidance of 1 or 0 generates without guidance.

    >>> rows_of(Sampling(guidance=1.0)), rows_of(Sampling(guidance=(1.0, 3.0)))
    (1, 2)
    """
    return 2 if any(strength not in (0, 1) for strength in sampling.strengths) else 1


def check_sampling(sampling: Sampling, shape: CacheGeometry) -> None:
    """Raises InputError where guidance is out of range, not one per scale, or at a place that does not exist."""
    Guidance.of(sampling.guidance, sampling.guidance_at, scales=len(shape.schedule), depth=shape.layers)
