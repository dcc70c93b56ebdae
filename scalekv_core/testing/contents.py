"""Tensors, profiles and images made from a case: always the same ones, whatever happened before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scalekv_core.contracts.profile import FRACTIONS, AttentionProfile
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.geometry import CacheGeometry

if TYPE_CHECKING:
    from scalekv_core.testing.cases import CodecCase, ImageCase, ViewCase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LARGEST_LOGIT = 1e4
"""What attention still does in float16: dot products stay finite."""


def numbers(shape: tuple[int, ...], content: str, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """(..., N, D) numbers of this kind.

    ``ordinary``: normal. ``tied``: tokens differ in the third digit. ``equal``: all tokens are one. ``repeated``: each is
    one of two. ``huge``: dot products near :data:`LARGEST_LOGIT`. ``denormal``: below the smallest normal number. ``zero``.
    """
    *outer, tokens, width = shape
    x = torch.randn(shape, generator=generator)
    one = torch.randn(*outer, 1, width, generator=generator)
    if content == "tied":
        x = one + 1e-3 * x
    elif content == "equal":
        x = one.expand(shape).clone()
    elif content == "repeated":
        first = torch.rand(*outer, tokens, 1, generator=generator) < 0.5
        x = torch.where(first, one, -one)
    elif content == "huge":
        x = x.clamp(-2, 2) * (LARGEST_LOGIT**0.5 / (2 * width**0.25))
    elif content == "denormal":
        x = x * (torch.finfo(dtype).tiny / 8)
    elif content == "zero":
        x = torch.zeros_like(x)
    return x.to(dtype)


def make_view(case: ViewCase, statistics: tuple[str, ...] = ()) -> CacheView:
    """The view that a case stands for."""
    generator = torch.Generator().manual_seed(case.seed)
    history, current = case.maps.history[case.scale], case.maps.tokens[case.scale]
    shape, dtype = (case.rows, case.heads), DTYPES[case.dtype]
    chosen = torch.rand(*shape, history, generator=generator).argsort(dim=-1)[..., : case.held].sort(dim=-1).values
    latest = torch.arange(history, history + current).expand(*shape, -1)
    zero, one = torch.zeros(*shape, current), torch.ones(*shape, current)
    counts = torch.randint(1, 9, (*shape, case.held), generator=generator).float()
    q, k, v = (
        numbers((*shape, tokens, case.width), case.content, dtype, generator).to(case.device)
        for tokens in (current, case.tokens, case.tokens)
    )
    before = {name: torch.rand(*shape, case.held, generator=generator) for name in statistics}
    return CacheView(
        q=q,
        k=k,
        v=v,
        positions=torch.cat([chosen, latest], dim=2).to(case.device, torch.int32),
        counts=torch.cat([counts, one], dim=2).to(case.device) if case.counts else None,
        statistics={name: torch.cat([x, zero], dim=2).to(case.device) for name, x in before.items()},
        schedule=case.maps,
        layer=case.layer,
        scale=case.scale,
        heads=tuple(range(case.heads)),
        softmax_scale=case.width**-0.5,
    )


def make_profile(geometry: CacheGeometry, content: str, seed: int) -> AttentionProfile:
    """A profile of a model that does not exist: shares of attention that add up, concentration that only grows."""
    rng = np.random.default_rng(seed)
    scales, shape = len(geometry.schedule), (len(geometry.schedule), geometry.layers, geometry.heads)
    mass = np.zeros((*shape, scales), dtype=np.float32)
    for k in range(scales):
        raw = np.ones((*shape[1:], k + 1)) if content == "flat" else rng.exponential(size=(*shape[1:], k + 1))
        raw = raw**8 if content == "peaked" else raw
        mass[k, ..., : k + 1] = raw / raw.sum(axis=-1, keepdims=True)
    grow = np.asarray(FRACTIONS) if content == "flat" else np.sort(rng.uniform(0.05, 1, (*shape, len(FRACTIONS))))
    share = np.broadcast_to(grow, (*shape, len(FRACTIONS))).astype(np.float32)
    share[0] = 1.0
    return AttentionProfile(model="synthetic", schedule=geometry.schedule, mass=mass, top_share=share)


def make_maps(case: CodecCase) -> tuple[Tensor, Tensor]:
    """(B, H, n, D) of two maps, views of something larger as a model's are."""
    generator = torch.Generator().manual_seed(case.seed)
    shape = (case.rows, case.heads, case.tokens + case.later, 2 * case.width)
    both = numbers(shape, case.content, DTYPES[case.dtype], generator).to(case.device)[..., : case.width]
    return both[:, :, : case.tokens], both[:, :, case.tokens :]


def make_image(case: ImageCase, geometry: CacheGeometry) -> list[tuple[Tensor, Tensor, Tensor]]:
    """q, k, v (B, H, all tokens, D) of every layer."""
    generator = torch.Generator().manual_seed(case.seed)
    shape = (geometry.rows, geometry.heads, geometry.schedule.total, geometry.head_dim)

    def made() -> Tensor:
        return numbers(shape, case.content, geometry.dtype, generator).to(case.device)

    return [(made(), made(), made()) for _ in range(geometry.layers)]
