"""Logits that are not finite end a generation: what follows from them would look like an image."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv_core.errors import NonFiniteError


class FiniteLogits:
    """Watches the logits of one image (or batch).

    On the CPU the first scale that is not finite is told at once. Elsewhere every scale leaves one flag on the device, and
    the flags are read together after the last scale, so that no scale waits for the device.

    >>> watch = FiniteLogits("toy")
    >>> watch.see(torch.zeros(1, 4, 8))
    >>> watch.see(torch.full((1, 9, 8), torch.nan))
    Traceback (most recent call last):
    scalekv_core.errors.NonFiniteError: toy computed logits that are not finite (NaN or infinity), first at scale 1; use bfloat16 or float32 instead of float16, or less guidance; inside of compress(..., check=True) the layer is named
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._flags: list[Tensor] = []

    def see(self, logits: Tensor) -> None:
        """The logits (B, n, V) of the next scale."""
        self._flags.append(torch.isfinite(logits).all())
        if logits.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raises NonFiniteError if the logits of a scale were not finite; called after the last scale."""
        finite = torch.stack(self._flags).tolist() if self._flags else []
        if not all(finite):
            raise NonFiniteError(
                f"{self._model} computed logits that are not finite (NaN or infinity), first at scale "
                f"{finite.index(False)}; use bfloat16 or float32 instead of float16, or less guidance; inside of "
                "compress(..., check=True) the layer is named"
            )
