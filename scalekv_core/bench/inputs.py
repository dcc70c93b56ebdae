"""Queries, keys and values as a model's projection hands them over: normalised, and laid out token by token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.bench.settings import BenchSettings

Map = tuple[Tensor, Tensor, Tensor]
"""q, k, v of one scale, (B, H, n, D) each."""


def make_inputs(settings: BenchSettings) -> list[Map]:
    """q, k and v of every scale; all layers and contenders get the same.

    One random (B, n, 3, H, D) block stands for the output of the qkv projection, so that q, k and v are no contiguous
    (B, H, n, D): q and k are normalised, which leaves their tokens in the projection's order; v is a view of the block.
    q carries the head's scale, hence the softmax scale is 1. Pass it on: whoever reads these attends with 1.
    """
    generator = torch.Generator(settings.device).manual_seed(settings.seed)
    factors = _head_factors(settings)
    return [_one_map(settings, tokens, generator, factors) for tokens in settings.geometry.schedule.tokens]


def _head_factors(settings: BenchSettings) -> Tensor:
    """(H, 1, 1) from the least to the greatest, in equal ratios."""
    least, greatest = map(math.log10, settings.head_scales)
    return torch.logspace(least, greatest, settings.geometry.heads, device=settings.device).view(-1, 1, 1)


def _one_map(settings: BenchSettings, tokens: int, generator: torch.Generator, factors: Tensor) -> Map:
    geometry = settings.geometry
    shape = (geometry.rows, tokens, 3, geometry.heads, geometry.head_dim)
    block = torch.randn(shape, generator=generator, device=settings.device)
    q, k, v = block.permute(2, 0, 3, 1, 4)
    if geometry.dtype != block.dtype:
        v = v.to(geometry.dtype)
    return (F.normalize(q, dim=-1) * factors).to(geometry.dtype), F.normalize(k, dim=-1).to(geometry.dtype), v
