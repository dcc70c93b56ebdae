"""Classifier-free guidance on logits: plain, or projected (APG), which leaves the conditioned direction alone.

Source of the latter: Sadat et al., Eliminating Oversaturation and Artifacts of High Guidance Scales, 2024 (arXiv 2410.02416), with
eta = 0.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import gt, optional
from torch import Tensor

from scalekv_core.errors import InputError

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

    Raises:
        InputError: a temperature that is not above 0.
    """

    guidance: Guidance
    temperatures: tuple[float, ...]

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


def projected(difference: Tensor, conditioned: Tensor, threshold: float) -> Tensor:
    """The difference (B, n, V), shortened to the threshold, without its part along the conditioned logits of its image."""
    size = difference.norm(dim=TOKENS_AND_CHANNELS, keepdim=True) / (difference[0].numel()) ** 0.5
    shortened = difference * (threshold / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(1)
    exact, along = shortened.double(), conditioned.double()
    along = along / along.norm(dim=TOKENS_AND_CHANNELS, keepdim=True).clamp_min(1e-12)
    share = (exact * along).sum(TOKENS_AND_CHANNELS, keepdim=True)
    return (exact - share * along).to(difference.dtype)
