"""What a model tells after each scale of its images, so that a caller can show them while they are generated."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from torch import Tensor


@frozen(eq=False, kw_only=True)
class ScaleStep:
    """One scale of a batch was generated.

    Attributes:
        scale: which one, from 0.
        scales: how many the images have.
        decode: makes images (B, 3, H, W) in [0, 1] of the scales so far. It takes as long as the decoding at the end, and
            its memory beside the cache.
    """

    scale: int
    scales: int
    decode: Callable[[], Tensor]


OnScale = Callable[[ScaleStep], None]
"""Is called after every scale; what it raises ends the generation, and the model is as before."""
