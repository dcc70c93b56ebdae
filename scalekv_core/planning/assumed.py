"""A profile that was assumed, not measured: for plans and measurements of a model that is not there.

It decides nothing but which layers hold much; what they hold together is the budget's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scalekv_core.contracts.profile import FRACTIONS, AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.values import is_whole


def default_drafters(layers: int) -> tuple[int, ...]:
    """Every sixteenth layer, from the first: 2 of 32, about as many as published plans have."""
    return tuple(range(0, layers, 16))


def assumed_profile(geometry: CacheGeometry, drafters: Sequence[int]) -> AttentionProfile:
    """A profile that was never measured: the layers named look far back at every scale, the others at their own map.

    For measuring what a plan costs where there is no model: it decides nothing but which layers hold much.

    Raises:
        InputError: no such layer.
    """
    if wrong := [layer for layer in drafters if not (is_whole(layer, 0) and layer < geometry.layers)]:
        raise InputError(f"layer {wrong[0]} cannot be a drafter: the model has layers 0 to {geometry.layers - 1}")
    scales = len(geometry.schedule)
    shape = (scales, geometry.layers, geometry.heads)
    current = np.full(shape, 0.9, dtype=np.float32)
    current[:, list(drafters)] = 0.3
    current[0] = 1.0
    mass = np.zeros((*shape, scales), dtype=np.float32)
    for k in range(scales):
        mass[k, :, :, :k] = (1 - current[k])[..., None] / max(1, k)
        mass[k, :, :, k] = current[k]
    top = np.where(current < 0.5, 0.3, 0.8).astype(np.float32)
    top[0] = 1.0
    far = np.where(current < 0.5, 3.0, 1.0).astype(np.float32)
    return AttentionProfile(
        model="assumed",
        schedule=geometry.schedule,
        mass=mass,
        top_share=np.repeat(top[..., None], len(FRACTIONS), axis=-1),
        entropy=far,
        column_variance=far * np.float32(0.1),
        provenance={"assumed": f"not measured: drafters are layers {', '.join(map(str, drafters)) or 'none'}"},
    )
