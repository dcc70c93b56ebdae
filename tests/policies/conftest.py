"""Shared by the tests of policies: random views of any schedule, synthetic profiles, recorded official results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from safetensors.torch import load_file
from torch import Tensor

from scalekv_core.contracts.profile import FRACTIONS, AttentionProfile
from scalekv_core.contracts.strategies import TokenSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "scalekv"


def build_view(
    schedule: ScaleSchedule,
    scale: int,
    *,
    held: int | None = None,
    rows: int = 2,
    heads: tuple[int, ...] = (0, 1, 2),
    width: int = 8,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    statistics: tuple[str, ...] = (),
) -> CacheView:
    """A view with random tensors; ``held`` tokens of the history remain, different ones in every row and head."""
    generator = torch.Generator().manual_seed(seed)
    history, current = schedule.history[scale], schedule.tokens[scale]
    held = history if held is None else held
    shape = (rows, len(heads))

    def normal(tokens: int) -> Tensor:
        return torch.randn(*shape, tokens, width, generator=generator).to(dtype)

    chosen = torch.rand(*shape, history, generator=generator).argsort(dim=-1)[..., :held].sort(dim=-1).values
    latest = torch.arange(history, history + current).expand(*shape, -1)
    mass = torch.rand(*shape, held, generator=generator)
    zero = torch.zeros(*shape, current)
    return CacheView(
        q=normal(current),
        k=normal(held + current),
        v=normal(held + current),
        positions=torch.cat([chosen, latest], dim=2).to(torch.int32),
        statistics={name: torch.cat([mass, zero], dim=2) for name in statistics},
        schedule=schedule,
        layer=1,
        scale=scale,
        heads=heads,
        softmax_scale=width**-0.5,
    )


def choose(selector: TokenSelector, view: CacheView, keep: int) -> Tensor:
    """The selector's answer, after it has observed the view as under the cache."""
    if selector.statistics:
        view = evolve(view, statistics=dict(selector.observe(view)))
    return selector.select(view, keep)


def build_profile(
    geometry: CacheGeometry,
    *,
    current: np.ndarray | None = None,
    top: np.ndarray | None = None,
    seed: int = 0,
    further: bool = True,
) -> AttentionProfile:
    """A profile with random attention, or with this [K, L, H] share on the current map and this concentration.

    Without ``further`` measures it is like those of older versions.
    """
    scales = len(geometry.schedule)
    rng = np.random.default_rng(seed)
    shape = (scales, geometry.layers, geometry.heads)
    current = rng.uniform(0.1, 0.9, shape) if current is None else np.broadcast_to(current, shape)
    share = np.sort(rng.uniform(0.1, 1.0, (*shape, len(FRACTIONS))), axis=-1)
    if top is not None:
        share[:] = np.broadcast_to(top, shape)[..., None]
    mass = np.zeros((*shape, scales))
    for k in range(scales):
        mass[k, ..., k] = current[k] if k else 1.0
        mass[k, ..., :k] = (1 - current[k][..., None]) / max(k, 1)
    share[0] = 1.0
    return AttentionProfile(
        model="synthetic",
        schedule=geometry.schedule,
        mass=mass.astype(np.float32),
        top_share=share.astype(np.float32),
        entropy=rng.uniform(1, 5, shape).astype(np.float32) if further else None,
        column_variance=rng.uniform(0.01, 0.1, shape).astype(np.float32) if further else None,
    )


@pytest.fixture
def make_view() -> Callable[..., CacheView]:
    return build_view


@pytest.fixture
def chosen() -> Callable[[TokenSelector, CacheView, int], Tensor]:
    return choose


@pytest.fixture
def make_profile() -> Callable[..., AttentionProfile]:
    return build_profile


@pytest.fixture
def golden() -> Callable[[str], dict[str, Tensor]]:
    """What the official code computed, by the recording's name; half-precision inputs as float32."""

    def load(name: str) -> dict[str, Tensor]:
        tensors = load_file(GOLDEN / f"{name}.safetensors")
        return {key: x.float() if x.dtype == torch.float16 else x for key, x in tensors.items()}

    return load


@pytest.fixture
def golden_folder() -> Path:
    return GOLDEN
