"""Attention alone: queries, keys and values as a model's projection hands them over, and nothing else of the model."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.bench.contenders import BenchCache, Contender
from scalekv_core.bench.settings import BenchSettings
from scalekv_core.bench.timing import Around, Subject

Map = tuple[Tensor, Tensor, Tensor]
"""q, k, v of one scale, (B, H, n, D) each."""


class AttentionAlone(Subject):
    """The same random queries, keys and values for every layer and contender, and nothing between the calls.

    Args:
        inputs: q, k and v of every scale.
    """

    def __init__(self, inputs: Sequence[Map]) -> None:
        self._inputs = inputs
        self.scales = len(inputs)

    def prepare(self, contender: Contender) -> None:
        """Nothing: all contenders attend with the same inputs."""

    def draw(self, contender: Contender, cache: BenchCache, around: Around) -> None:
        for scale, (q, k, v) in enumerate(self._inputs):
            for place in range(len(contender.layers)):
                around(scale, place, functools.partial(cache.attend, place, q, k, v, softmax_scale=1.0))
        cache.close()

    draw_layers = draw


def make_inputs(settings: BenchSettings) -> list[Map]:
    """q, k and v of every scale; all layers and contenders get the same.

    One random (B, n, 3, H, D) block stands for the output of the qkv projection, so that q, k and v are no contiguous
    (B, H, n, D): q and k are normalised, which leaves their tokens in the projection's order; v is a view of the block.
    q carries the head's scale, hence the softmax scale is 1. With grouped heads q comes from a block of its own. Pass it on: attention over these uses 1.
    """
    generator = torch.Generator(settings.device).manual_seed(settings.seed)
    factors = _head_factors(settings)
    return [_one_map(settings, tokens, generator, factors) for tokens in settings.geometry.schedule.tokens]


def _head_factors(settings: BenchSettings) -> Tensor:
    """(H, 1, 1) from the least to the greatest, in equal ratios."""
    least, greatest = map(math.log10, settings.head_scales)
    return torch.logspace(least, greatest, settings.geometry.query_heads, device=settings.device).view(-1, 1, 1)


def _one_map(settings: BenchSettings, tokens: int, generator: torch.Generator, factors: Tensor) -> Map:
    geometry = settings.geometry
    shape = (geometry.rows, tokens, 3, geometry.heads, geometry.head_dim)
    block = torch.randn(shape, generator=generator, device=settings.device)
    q, k, v = block.permute(2, 0, 3, 1, 4)
    if geometry.group > 1:
        shape_of_q = (geometry.rows, tokens, geometry.query_heads, geometry.head_dim)
        q = torch.randn(shape_of_q, generator=generator, device=settings.device).transpose(1, 2)
    if geometry.dtype != block.dtype:
        v = v.to(geometry.dtype)
    return (F.normalize(q, dim=-1) * factors).to(geometry.dtype), F.normalize(k, dim=-1).to(geometry.dtype), v
