"""Attaching to the HART object of the official repository (mit-han-lab/hart, MIT); see :mod:`scalekv_adapters.official`.

Only its attention is replaced, which needs none of the project's CUDA extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.official import HEAD_SCALE, OfficialAdapter, OfficialImages, normalised
from scalekv_core.errors import SessionError
from scalekv_core.shapes.schedule import ScaleSchedule

WEIGHTS = {"qkv_proj.weight", "q_bias", "zero_k_bias", "v_bias", "proj.weight", "proj.bias"}
ROTARY = ("rotary_emb", "context_rotary_emb")


def schedule_of(model: Any) -> ScaleSchedule:
    """The text and the maps that it is set to generate."""
    maps = [(1, side, side) for side in model.patch_nums[1:]]
    return ScaleSchedule([(1, 1, model.context_token), *maps], prefix=True)


def place_of(side: int, last: int, offset: Tensor) -> Tensor:
    """(B, side * side, 2) row and column of the tokens of a map on the grid of the last one, behind the text.

    >>> place_of(2, 4, torch.tensor([10.0]))[0].tolist()
    [[10.0, 10.0], [10.0, 12.0], [12.0, 10.0], [12.0, 12.0]]
    """
    along = torch.arange(side, device=offset.device) / side * last
    return torch.cartesian_prod(along, along) + offset[:, None, None]


class OfficialHARTImages(OfficialImages):
    """Its schedule is the model's, so a cache is made when an image begins."""

    family = "HART"

    def begin(self) -> None:
        self.schedule = schedule_of(self.model)
        self.cache = self.source.new_cache(self.schedule)

    def forward(
        self,
        layer: int,
        x: Tensor,
        attn_bias: Tensor | None,
        si: int = -1,
        context_position_ids: Tensor | None = None,
        context_mask: Tensor | None = None,
        m_maskgit: Any = None,
    ) -> Tensor:
        if attn_bias is not None or self.cache is None or context_position_ids is None:
            original: Tensor = self.originals[layer](x, attn_bias, si, context_position_ids, context_mask, m_maskgit)
            return original
        if x.shape[1] != self.schedule.tokens[si]:
            raise SessionError(
                f"this HART passes {x.shape[1]} of {self.schedule.tokens[si]} tokens of map {si} at once; a compressed cache "
                "needs whole maps: generate with num_maskgit_iters=1"
            )
        attention = self.attentions[layer]
        bias = torch.cat((attention.q_bias, attention.zero_k_bias, attention.v_bias))
        rows = F.linear(x, attention.qkv_proj.weight, bias)
        q, k, v = rows.view(*x.shape[:2], 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4)
        q, k = normalised(attention, q, k)
        cos, sin = self._rotation(attention, v, si, context_position_ids)
        q, k = (part * cos + _turned(part) * sin for part in (q, k))
        return self.attended(layer, q.to(v.dtype), k.to(v.dtype), v)

    def _rotation(self, attention: Any, v: Tensor, si: int, text: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, 1, n, D), by the object's own modules."""
        if si == 0:
            cos, sin = attention.context_rotary_emb(v, text)
        else:
            sides: Sequence[int] = cast(Any, self.model).patch_nums
            cos, sin = attention.rotary_emb(v, place_of(sides[si], sides[-1], text[:, -1]))
        return cos.unsqueeze(1), sin.unsqueeze(1)


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class OfficialHARTAdapter(OfficialAdapter):
    """HART as built by the official repository: replaces two methods of each attention instance."""

    images = OfficialHARTImages
    call = ("x", "attn_bias", "si", "context_position_ids", "context_mask", "m_maskgit")
    model_attributes = ("patch_nums", "context_token", "diffloss")
    projection = "qkv_proj"

    def attentions(self, model: nn.Module) -> list[Any]:
        blocks = getattr(model, "blocks", None)
        return [getattr(block, "attn", None) for block in blocks] if isinstance(blocks, nn.ModuleList) else []

    def weights_of(self, attention: nn.Module) -> set[str]:
        return {name for name in attention.state_dict() if not name.startswith(ROTARY)} - {HEAD_SCALE}

    weights = WEIGHTS

    def schedule_of(self, model: Any) -> ScaleSchedule:
        return schedule_of(model)

    def key_dtype(self, attention: Any) -> torch.dtype | None:
        return None
