"""Classifier-free guidance on logits: plain, or projected (APG), which leaves the conditioned direction alone.

Source of the latter: Sadat et al., Eliminating Oversaturation and Artifacts of High Guidance Scales, 2024 (arXiv 2410.02416), with
eta = 0.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import gt, optional
from torch import Tensor

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


def projected(difference: Tensor, conditioned: Tensor, threshold: float) -> Tensor:
    """The difference (B, n, V), shortened to the threshold, without its part along the conditioned logits of its image."""
    size = difference.norm(dim=TOKENS_AND_CHANNELS, keepdim=True) / (difference[0].numel()) ** 0.5
    shortened = difference * (threshold / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(1)
    exact, along = shortened.double(), conditioned.double()
    along = along / along.norm(dim=TOKENS_AND_CHANNELS, keepdim=True).clamp_min(1e-12)
    share = (exact * along).sum(TOKENS_AND_CHANNELS, keepdim=True)
    return (exact - share * along).to(difference.dtype)
