"""Classifier-free guidance on logits: plain, or projected (APG), which leaves the conditioned direction alone.

Source of the latter: Sadat et al., Eliminating Oversaturation and Artifacts of High Guidance Scales, 2024 (arXiv 2410.02416), with
eta = 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import field, frozen
from attrs.validators import gt, optional
from torch import Tensor

from scalekv_adapters.infinitystar.pyramids import Pyramids
from scalekv_adapters.sampling import choose, filter_logits
from scalekv_core.errors import InputError
from scalekv_core.models.sampling import Sampling

TOKENS_AND_CHANNELS = (-2, -1)


@frozen
class Guidance:
    """How the conditioned and the unconditioned logits are mixed.

    Attributes:
        strengths: by pass; 1 leaves the conditioned ones as they are.
        threshold: of projected guidance: the most that the difference may be, as a root mean square; None is plain guidance.
    """

    strengths: tuple[float, ...]
    threshold: float | None = field(default=None, validator=optional(gt(0)))

    @property
    def is_needed(self) -> bool:
        """Whether any pass needs unconditioned logits."""
        return any(strength != 1 for strength in self.strengths)

    def mixed(self, conditioned: Tensor, unconditioned: Tensor, number: int) -> Tensor:
        """(B, n, V) of logits (B, n, V) of this pass."""
        strength = self.strengths[number]
        if strength == 1:
            return conditioned
        if self.threshold is None:
            return strength * conditioned + (1 - strength) * unconditioned
        return conditioned + (strength - 1) * projected(conditioned - unconditioned, conditioned, self.threshold)


@frozen(kw_only=True)
class Choosing:
    """How bits are chosen.

    Attributes:
        guidance: one strength for each pass.
        temperatures: that divide the logits before guidance, one for each pass.
        top_k, top_p: filters over the two values of a bit; 0 lets both compete.

    Raises:
        InputError: a temperature that is not above 0.
    """

    guidance: Guidance
    temperatures: tuple[float, ...]
    top_k: int = 0
    top_p: float = 0.0

    def __attrs_post_init__(self) -> None:
        if wrong := [tau for tau in self.temperatures if not tau > 0]:
            raise InputError(f"InfinityStar needs temperatures above 0; got {wrong[0]}")

    def check(self, passes: int) -> None:
        """Raises InputError unless there is one strength and one temperature for each pass."""
        found = len(self.guidance.strengths), len(self.temperatures)
        if found != (passes, passes):
            raise InputError(
                f"InfinityStar needs a strength of guidance and a temperature for each of {passes} passes; got {found[0]} "
                f"and {found[1]}"
            )

    def bits(self, logits: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
        """Bits (B, n, d) bool of logits (B, n, 2 d): the likelier values, or sampled with one generator per clip."""
        pairs = filter_logits(
            logits.flatten(1).unflatten(1, (-1, 2)), top_k=self.top_k, top_p=self.top_p
        )  # (B, n d, 2)
        return choose(pairs, generators).bool().view(*logits.shape[:2], -1)


@frozen(kw_only=True)
class Preset:
    """What a kind of clip was published with.

    Attributes:
        first, later: temperatures of the pyramid of the first frame, and of the others.
        threshold: of projected guidance; None is plain guidance.
    """

    first: float
    later: float
    threshold: float | None = None

    def choosing(self, pyramids: Pyramids, sampling: Sampling) -> Choosing:
        """How the bits of these pyramids are chosen: temperatures are factors on those that were published.

        Raises:
            InputError: guidance between 0 and 1, or for another number of maps.
        """
        strengths = strengths_of(sampling, len(pyramids.maps))
        by_map = [
            strength for strength, times in zip(strengths, sum(pyramids.repeats, ()), strict=True) for _ in range(times)
        ]
        own = [self.first if each.first_frame == 0 and each.grid[0] == 1 else self.later for each in pyramids.passes]
        return Choosing(
            guidance=Guidance(tuple(by_map), self.threshold),
            temperatures=tuple(tau * sampling.temperature for tau in own),
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )


def strengths_of(sampling: Sampling, maps: int) -> tuple[float, ...]:
    """One strength of guidance for each map, 1 where there is none.

    Raises:
        InputError: a strength between 0 and 1, not one for all maps or for each, or guidance at another place than the logits.

    >>> strengths_of(Sampling(guidance=0.0), 2)
    (1.0, 1.0)
    """
    sampling.check_guided_on_logits("InfinityStar")
    given = sampling.strengths * maps if len(sampling.strengths) == 1 else sampling.strengths
    if len(given) != maps:
        raise InputError(f"InfinityStar needs one guidance for all {maps} maps or one for each; got {len(given)}")
    if wrong := [strength for strength in given if 0 < strength < 1]:
        raise InputError(
            f"InfinityStar needs guidance of 1 or more (or 0 to generate without guidance); got {wrong[0]}"
        )
    return tuple(float(strength or 1) for strength in given)


def rows_of(sampling: Sampling) -> int:
    """Sequences in the batch for each clip: guidance of 1 or 0 generates without guidance.

    >>> rows_of(Sampling(guidance=1.0)), rows_of(Sampling(guidance=34.0))
    (1, 2)
    """
    return 2 if any(strength not in (0, 1) for strength in sampling.strengths) else 1


def projected(difference: Tensor, conditioned: Tensor, threshold: float) -> Tensor:
    """The difference (B, n, V), shortened to the threshold, without its part along the conditioned logits of its image."""
    size = difference.norm(dim=TOKENS_AND_CHANNELS, keepdim=True) / (difference[0].numel()) ** 0.5
    shortened = difference * (threshold / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(1)
    exact, along = shortened.double(), conditioned.double()
    along = along / along.norm(dim=TOKENS_AND_CHANNELS, keepdim=True).clamp_min(1e-12)
    share = (exact * along).sum(TOKENS_AND_CHANNELS, keepdim=True)
    return (exact - share * along).to(difference.dtype)
