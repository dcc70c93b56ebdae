"""Attaching to the VAR object of the official repository (FoundationVision/VAR, MIT); see :mod:`scalekv_adapters.official`.

Under CUDA's autocast, where norms are computed in float32, the official code stores l2-normalised keys in float32 and casts
all of them at every scale; what attention reads is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scalekv_adapters.official import HEAD_SCALE, OfficialAdapter, OfficialImages, normalised, projected
from scalekv_adapters.var.config import check_trained
from scalekv_core.shapes.schedule import ScaleSchedule


def schedule_of(model: Any) -> ScaleSchedule:
    """The maps that it is set to generate; InputError if it was not trained with them."""
    schedule = ScaleSchedule.square(*model.patch_nums)
    check_trained(schedule, model.lvl_1L)
    return schedule


class OfficialVARImages(OfficialImages):
    """Its schedule is the model's, so a cache is made when an image begins."""

    family = "VAR"

    def begin(self) -> None:
        self.cache = self.source.new_cache(schedule_of(self.model))

    def forward(self, layer: int, x: Tensor, attn_bias: Tensor | None = None) -> Tensor:
        if attn_bias is not None or self.cache is None:
            original: Tensor = self.originals[layer](x, attn_bias)
            return original
        attention = self.attentions[layer]
        q, k, v = projected(attention, x).permute(2, 0, 3, 1, 4)
        q, k = normalised(attention, q, k)
        return self.attended(layer, q.to(v.dtype), k.to(v.dtype), v)


class OfficialVARAdapter(OfficialAdapter):
    """VAR as built by the official repository: replaces two methods of each attention instance."""

    images = OfficialVARImages
    call = ("x", "attn_bias")
    model_attributes = ("patch_nums", "lvl_1L")

    def attentions(self, model: nn.Module) -> list[Any]:
        blocks = getattr(model, "blocks", None)
        return [getattr(block, "attn", None) for block in blocks] if isinstance(blocks, nn.ModuleList) else []

    def schedule_of(self, model: Any) -> ScaleSchedule:
        return schedule_of(model)

    def key_dtype(self, attention: Any) -> torch.dtype | None:
        weight: Tensor = attention.mat_qkv.weight
        return weight.dtype if weight.is_cuda and hasattr(attention, HEAD_SCALE) else None
