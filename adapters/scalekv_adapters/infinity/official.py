"""Attaching to the Infinity object of the official repository (FoundationVision/Infinity, MIT), so that its own code draws.

It is known by its structure; its code is never imported. Attention keeps everything itself there, so on every attention
*instance* two methods are replaced: `kv_caching`, with which the official loop says that an image begins and ends, and
`forward`, which hands queries, keys and values to a cache instead of concatenating them. The flags and tensors in which
the official attention caches are not touched, so there is nothing of them to restore, whatever happens to an image.

The schedule is an argument of every call there, so a cache is made at the first attention of an image. Keys are handed
over in the dtype in which attention reads them; the official code stores them in float32, because the rotation is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.infinity.rotation import Rotation
from scalekv_adapters.infinity.templates import PIXELS, Canvas
from scalekv_adapters.instances import drops_out, replace_attributes
from scalekv_core.contracts.adapter import AttentionCache, CacheSource, ModelAdapter
from scalekv_core.errors import SessionError
from scalekv_core.session.tracing import untraced
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

WEIGHTS = {"mat_qkv.weight", "q_bias", "zero_k_bias", "v_bias", "proj.weight", "proj.bias"}
HEAD_SCALE = "scale_mul_1H11"  # there only with cosine attention
ATTRIBUTES = (
    "num_heads",
    "head_dim",
    "scale",
    "proj_drop",
    "using_flash",
    "kv_caching",
    "caching",
    "cached_k",
    "cached_v",
)
CALL = ["x", "attn_bias_or_two_vector", "attn_fn", "scale_schedule", "rope2d_freqs_grid", "scale_ind"]


class OfficialInfinityAdapter(ModelAdapter):
    """Infinity as built by the official repository: replaces two methods of each attention instance."""

    def matches(self, model: nn.Module) -> bool:
        found = attentions(model)
        official = all(is_official_attention(attention) for attention in found)
        return bool(found) and official and hasattr(model, "rope2d_freqs_grid") and hasattr(model, "text_proj_for_sos")

    def geometry(self, model: nn.Module) -> CacheGeometry:
        """The shape of the model's cache: a square image of its ``pn``, one row, the dtype of its weights.

        What is drawn may have another schedule; the official object is told with every image.

        Raises:
            SessionError: it does not say how large its images are.
        """
        found = attentions(model)
        first = found[0]
        return CacheGeometry(
            schedule=schedule_of(model),
            layers=len(found),
            heads=first.num_heads,
            head_dim=first.head_dim,
            dtype=first.mat_qkv.weight.dtype,
            unmodified_key_dtype=torch.float32,
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
            drawing.close()

        return detach


class _Drawing:
    """What the replaced methods of all layers share: the cache of the image being drawn, if one is."""

    def __init__(self, model: nn.Module, source: CacheSource) -> None:
        self.model, self.source = model, source
        self.attentions = attentions(model)
        self.originals = [attention.forward for attention in self.attentions]
        self.caching = False
        self.cache: AttentionCache | None = None
        self.rotations: list[Rotation] = []
        self.begin = self._begin

    def kv_caching(self, layer: int, enable: bool) -> None:
        """An image begins where the first layer is told to cache, and ends where the last one is told not to."""
        if enable and layer == 0:
            self.close()
            if drops_out(self.model):
                raise SessionError("this official Infinity is in training mode with dropout; call eval() on it to draw")
            self.caching = True
            self.begin = untraced(self._begin)
        elif not enable and layer == len(self.attentions) - 1:
            self.close()

    def close(self) -> None:
        """Ends the image, if one is being drawn."""
        cache, self.cache, self.caching, self.rotations = self.cache, None, False, []
        if cache is not None:
            cache.close()

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
        """(B, n, C) the attention of x (B, n, C); with a mask, or outside of an image, as the model itself has it."""
        attention = self.attentions[layer]
        if not self.caching or attn_bias_or_two_vector is not None or scale_schedule is None:
            return self.originals[layer](
                x, attn_bias_or_two_vector, attn_fn, scale_schedule, rope2d_freqs_grid, scale_ind
            )
        if self.cache is None:
            self.begin(attention, scale_schedule, rope2d_freqs_grid, x.device)
        assert self.cache is not None
        q, k, v = queries_keys_values(attention, x, self.rotations[scale_ind] if self.rotations else None)
        out = self.cache.attend(layer, q, k, v, softmax_scale=float(attention.scale))
        return attention.proj_drop(attention.proj(out.transpose(1, 2).flatten(2)))

    def _begin(
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


def attentions(model: nn.Module) -> list[Any]:
    """The self-attention of every block; None where a block has none."""
    chunks = getattr(model, "block_chunks", None)
    if not isinstance(chunks, nn.ModuleList):
        return []
    lists = [getattr(chunk, "module", None) for chunk in chunks]
    return [getattr(block, "sa", None) for blocks in lists if isinstance(blocks, nn.ModuleList) for block in blocks]


def is_official_attention(attention: Any) -> bool:
    """Whether this has the weights, the attributes and the call of the official attention, and no weights besides."""
    return (
        isinstance(attention, nn.Module)
        and set(attention.state_dict()) - {HEAD_SCALE} == WEIGHTS
        and all(hasattr(attention, name) for name in ATTRIBUTES)
        and list(inspect.signature(attention.forward).parameters) == CALL
    )


def schedule_of(model: Any) -> ScaleSchedule:
    """The maps of a square image of the size that the model was built for.

    Raises:
        SessionError: it does not say which size that is.
    """
    pixels = getattr(model, "pn", None)
    if pixels not in PIXELS:
        raise SessionError(
            f"this official Infinity does not say how large its images are (its pn is {pixels!r}); "
            f"build it with pn={', '.join(PIXELS)}"
        )
    return Canvas("1:1", pixels).schedule


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
    bias = torch.cat((attention.q_bias, attention.zero_k_bias, attention.v_bias))
    rows = F.linear(x, attention.mat_qkv.weight, bias).view(*x.shape[:2], 3, attention.num_heads, attention.head_dim)
    flash = attention.using_flash
    q, k, v = rows.unbind(2) if flash else rows.permute(2, 0, 3, 1, 4)
    if hasattr(attention, HEAD_SCALE):
        scale = attention.scale_mul_1H11.clamp_max(attention.max_scale_mul).exp()  # (1, 1, H, 1) or (1, H, 1, 1)
        q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
    if rotation is not None:
        q, k = rotation.turn(q), rotation.turn(k)
    q, k = q.to(v.dtype), k.to(v.dtype)
    return (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)) if flash else (q, k, v)
