"""Classifier-free guidance as VAR does it: it grows from nothing at the first scale to its whole strength at the last."""

from __future__ import annotations

from torch import Tensor


def guide(logits: Tensor, *, guidance: float, scale: int, scales: int) -> Tensor:
    """Logits (B, n, V) after classifier-free guidance, of logits (2B, n, V): conditioned rows first.

    Its weight grows with the scale: (1 + t) * conditioned - t * unconditioned, t = guidance * scale / (scales - 1).

    >>> import torch
    >>> guide(torch.tensor([[[1.0]], [[0.5]]]), guidance=4.0, scale=9, scales=10)
    tensor([[[3.]]])
    """
    conditioned, unconditioned = logits.chunk(2)
    t = guidance * scale / (scales - 1)
    return (1 + t) * conditioned - t * unconditioned
