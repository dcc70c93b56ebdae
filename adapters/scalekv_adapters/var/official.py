"""Attaching to the VAR object of the official repository (FoundationVision/VAR, MIT), so that its own code draws.

It is known by its structure; its code is never imported. Attention keeps everything itself there, so on every attention
*instance* two methods are replaced: `kv_caching`, with which the official loop says that an image begins and ends, and
`forward`, which hands queries, keys and values to a cache instead of concatenating them. The flags and tensors in which
the official attention caches are not touched, so there is nothing of them to restore, whatever happens to an image.

Keys are handed over in the dtype in which attention reads them. Under CUDA's autocast, where norms are computed in
float32, the official code stores l2-normalised keys in float32 and casts all of them at every scale; what attention reads
is the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.instances import drops_out, replace_attributes
from scalekv_adapters.var.config import check_trained
from scalekv_core.contracts.adapter import AttentionCache, CacheSource, ModelAdapter
from scalekv_core.errors import SessionError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

WEIGHTS = {"mat_qkv.weight", "q_bias", "zero_k_bias", "v_bias", "proj.weight", "proj.bias"}
HEAD_SCALE = "scale_mul_1H11"  # there only with the attention l2 norm
ATTRIBUTES = ("num_heads", "head_dim", "scale", "proj_drop", "kv_caching", "caching", "cached_k", "cached_v")


class OfficialVARAdapter(ModelAdapter):
    """VAR as built by the official repository: replaces two methods of each attention instance."""

    def matches(self, model: nn.Module) -> bool:
        found = attentions(model)
        official = all(is_official_attention(attention) for attention in found)
        return bool(found) and official and hasattr(model, "patch_nums") and hasattr(model, "lvl_1L")

    def geometry(self, model: nn.Module) -> CacheGeometry:
        """The shape of the model's cache: the schedule of its ``patch_nums``, one row, the dtype of its weights.

        Raises:
            InputError: it is set to draw maps that it was not trained with.
        """
        found = attentions(model)
        first, weight = found[0], found[0].mat_qkv.weight
        stays_wide = weight.is_cuda and hasattr(first, HEAD_SCALE)
        return CacheGeometry(
            schedule=schedule_of(model),
            layers=len(found),
            heads=first.num_heads,
            head_dim=first.head_dim,
            dtype=weight.dtype,
            unmodified_key_dtype=weight.dtype if stays_wide else None,
        )

    def attach(self, model: nn.Module, source: CacheSource) -> Callable[[], None]:
        drawing = _Drawing(model, source)
        restores = [
            replace_attributes(
                attention, forward=partial(drawing.forward, layer), kv_caching=partial(drawing.kv_caching, layer)
            )
            for layer, attention in enumerate(drawing.attentions)
        ]

        def detach() -> None:
            for restore in restores:
                restore()

        return detach


class _Drawing:
    """What the replaced methods of all layers share: the cache of the image being drawn, if one is."""

    def __init__(self, model: nn.Module, source: CacheSource) -> None:
        self.model, self.source = model, source
        self.attentions = attentions(model)
        self.originals = [attention.forward for attention in self.attentions]
        self.cache: AttentionCache | None = None

    def kv_caching(self, layer: int, enable: bool) -> None:
        """An image begins where the first layer is told to cache, and ends where the last one is told not to."""
        if enable and layer == 0:
            if drops_out(self.model):
                raise SessionError("this official VAR is in training mode with dropout; call eval() on it to draw")
            self.cache = self.source.new_cache(schedule_of(self.model))
        elif not enable and layer == len(self.attentions) - 1 and self.cache is not None:
            cache, self.cache = self.cache, None
            cache.close()

    def forward(self, layer: int, x: Tensor, attn_bias: Tensor | None = None) -> Tensor:
        """(B, n, C) the attention of x (B, n, C); with a mask, or outside of an image, as the model itself has it."""
        if attn_bias is not None or self.cache is None:
            return self.originals[layer](x, attn_bias)
        attention = self.attentions[layer]
        q, k, v = queries_keys_values(attention, x)
        out = self.cache.attend(layer, q, k, v, softmax_scale=float(attention.scale))
        return attention.proj_drop(attention.proj(out.transpose(1, 2).flatten(2)))


def attentions(model: nn.Module) -> list[Any]:
    """The attention of every block; None where a block has none."""
    blocks = getattr(model, "blocks", None)
    return [getattr(block, "attn", None) for block in blocks] if isinstance(blocks, nn.ModuleList) else []


def is_official_attention(attention: Any) -> bool:
    """Whether this has the weights, the attributes and the call of the official attention, and no weights besides."""
    return (
        isinstance(attention, nn.Module)
        and set(attention.state_dict()) - {HEAD_SCALE} == WEIGHTS
        and all(hasattr(attention, name) for name in ATTRIBUTES)
        and list(inspect.signature(attention.forward).parameters) == ["x", "attn_bias"]
    )


def schedule_of(model: Any) -> ScaleSchedule:
    """The maps that it is set to draw; InputError if it was not trained with them."""
    schedule = ScaleSchedule.square(*model.patch_nums)
    check_trained(schedule, model.lvl_1L)
    return schedule


def queries_keys_values(attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, H, n, D) of x (B, n, C) with bias, l2 norm and head scale, in one dtype."""
    bias = torch.cat((attention.q_bias, attention.zero_k_bias, attention.v_bias))
    rows = F.linear(x, attention.mat_qkv.weight, bias).view(*x.shape[:2], 3, attention.num_heads, attention.head_dim)
    q, k, v = rows.permute(2, 0, 3, 1, 4)
    if hasattr(attention, HEAD_SCALE):
        scale = attention.scale_mul_1H11.clamp_max(attention.max_scale_mul).exp()  # (1, H, 1, 1)
        q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
    return q.to(v.dtype), k.to(v.dtype), v
