"""Attaching to the Infinity object of the official repository (FoundationVision/Infinity, MIT); see
:mod:`scalekv_adapters.official`.

The schedule is an argument of every call there, so a cache is made at the first attention of an image. The official code
stores keys in float32, because the rotation is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scalekv_adapters.infinity.rotation import Rotation
from scalekv_adapters.infinity.templates import PIXELS, Canvas
from scalekv_adapters.official import ATTRIBUTES, OfficialAdapter, OfficialImages, normalised, projected
from scalekv_core.cache.tracing import untraced
from scalekv_core.contracts.adapter import CacheSource
from scalekv_core.shapes.schedule import ScaleSchedule


class OfficialInfinityImages(OfficialImages):
    """An image has begun when `kv_caching` says so; its schedule is known at the first attention."""

    family = "Infinity"

    def __init__(self, model: nn.Module, attentions: list[Any], source: CacheSource) -> None:
        super().__init__(model, attentions, source)
        self.caching = False
        self.rotations: list[Rotation] = []
        self.make_cache = self._make_cache

    def begin(self) -> None:
        self.caching = True
        self.make_cache = untraced(self._make_cache)

    def close(self) -> None:
        self.caching, self.rotations = False, []
        super().close()

    def forward(
        self,
        layer: int,
        x: Tensor,
        attn_bias_or_two_vector: Any,
        attn_fn: Any = None,
        scale_schedule: Sequence[tuple[int, int, int]] | None = None,
        rope2d_freqs_grid: Mapping[str, Tensor] | None = None,
        scale_ind: int = 0,
    ) -> Tensor:
        if not self.caching or attn_bias_or_two_vector is not None or scale_schedule is None:
            original: Tensor = self.originals[layer](
                x, attn_bias_or_two_vector, attn_fn, scale_schedule, rope2d_freqs_grid, scale_ind
            )
            return original
        attention = self.attentions[layer]
        if self.cache is None:
            self.make_cache(attention, scale_schedule, rope2d_freqs_grid, x.device)
        rotation = self.rotations[scale_ind] if self.rotations else None
        return self.attended(layer, *queries_keys_values(attention, x, rotation))

    def _make_cache(
        self,
        attention: Any,
        scale_schedule: Sequence[tuple[int, int, int]],
        grid: Mapping[str, Tensor] | None,
        device: torch.device,
    ) -> None:
        schedule = ScaleSchedule(scale_schedule)
        if grid is not None:
            self.rotations = rotations_of(attention, schedule, grid[str(tuple(scale_schedule))].to(device))
        self.cache = self.source.new_cache(schedule)


class OfficialInfinityAdapter(OfficialAdapter):
    """Infinity as built by the official repository: replaces two methods of each attention instance."""

    schedule_varies = True
    images = OfficialInfinityImages
    call = ("x", "attn_bias_or_two_vector", "attn_fn", "scale_schedule", "rope2d_freqs_grid", "scale_ind")
    attributes = (*ATTRIBUTES, "using_flash")
    model_attributes = ("rope2d_freqs_grid", "text_proj_for_sos")

    def attentions(self, model: nn.Module) -> list[Any]:
        chunks = getattr(model, "block_chunks", None)
        if not isinstance(chunks, nn.ModuleList):
            return []
        lists = [getattr(chunk, "module", None) for chunk in chunks]
        return [getattr(block, "sa", None) for blocks in lists if isinstance(blocks, nn.ModuleList) for block in blocks]

    def schedule_of(self, model: Any) -> ScaleSchedule:
        """The maps of a square image of its ``pn``, or of the largest size if it names none.

        It stands for the others where one must be shown: the caller chooses the schedule of each image, and a session
        plans each image by its own.
        """
        pixels = getattr(model, "pn", None)
        return Canvas("1:1", pixels if pixels in PIXELS else "1M").schedule

    def key_dtype(self, attention: Any) -> torch.dtype | None:
        return torch.float32


def rotations_of(attention: Any, schedule: ScaleSchedule, grid: Tensor) -> list[Rotation]:
    """The rotation of every scale, as the attention looks it up in its grid (2, 1, 1, 1, L, D/2).

    With the layout of its flash kernels, (B, L, H, D), it takes as many rotations as there are heads, and turns every
    head by one of them: surely not what was meant, but what an object of that layout computes.
    """
    turns = torch.complex(*grid.float().flatten(0, -3))
    counts = schedule.tokens if not attention.using_flash else (attention.num_heads,) * len(schedule)
    spans = [(start, start + count) for start, count in zip(schedule.history, counts, strict=True)]
    return [Rotation(turns[start:stop]) for start, stop in spans]


def queries_keys_values(attention: Any, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, H, n, D) of x (B, n, C) with bias, l2 norm, head scale and rotation, in one dtype."""
    rows, flash = projected(attention, x), attention.using_flash
    q, k, v = rows.unbind(2) if flash else rows.permute(2, 0, 3, 1, 4)
    q, k = normalised(attention, q, k)
    if rotation is not None:
        q, k = rotation.turn(q), rotation.turn(k)
    q, k = q.to(v.dtype), k.to(v.dtype)
    return (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)) if flash else (q, k, v)
