"""Attaching to the InfinityStar object of the official repository (FoundationVision/InfinityStar, MIT); see
:mod:`scalekv_adapters.official`.

Only its attention is replaced, which needs no flash-attn then. The object is told its maps, and which of them each one reads, with every
call. What an interactive clip is shown is passed before its first map tells that, so text and conditions, each of which attends to
itself alone, are handed to the cache when that map comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from scalekv_adapters.infinitystar.rotation import Rotation
from scalekv_adapters.infinitystar.templates import published
from scalekv_adapters.official import OfficialAdapter, OfficialImages
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.cache.tracing import untraced
from scalekv_core.contracts.adapter import CacheSource
from scalekv_core.errors import SessionError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import Map, ScaleSchedule

WEIGHTS = {f"{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")}
TEXT, DETAIL = "t0", "detail_condition"
"""What the official code calls the text, and the condition whose frames are whole."""
QKV = tuple[Tensor, Tensor, Tensor]


class OfficialInfinityStarImages(OfficialImages):
    """A clip has begun when `kv_caching` says so; its schedule is known at the first attention of a map."""

    family = "InfinityStar"

    def __init__(self, model: nn.Module, attentions: list[Any], source: CacheSource) -> None:
        super().__init__(model, attentions, source)
        self.caching = False
        self.before: dict[str, dict[int, QKV]] = {}
        self.make_cache = self._make_cache

    def begin(self) -> None:
        self.caching = True
        self.make_cache = untraced(self._make_cache)

    def close(self) -> None:
        self.caching, self.before = False, {}
        super().close()

    def forward(
        self,
        layer: int,
        x: Tensor,
        attn_bias_or_two_vector: Any,
        attn_fn: Any = None,
        rope2d_freqs_grid: Any = (),
        scale_schedule: Sequence[Map] = (),
        scale_ind: int | str = 0,
        context_info: Mapping[int, Any] | None = None,
        last_repetition_step: bool = True,
        ref_text_scale_inds: Sequence[str] = (),
    ) -> Tensor:
        if not self.caching or attn_bias_or_two_vector is not None or context_info is None:
            original: Tensor = self.originals[layer](
                x, attn_bias_or_two_vector, attn_fn, rope2d_freqs_grid, scale_schedule, scale_ind, context_info,
                last_repetition_step, ref_text_scale_inds,
            )  # fmt: skip
            return original
        attention = self.attentions[layer]
        q, k, v = queries_keys_values(attention, x, rope2d_freqs_grid)
        scale = attention.head_dim**-0.5
        if isinstance(scale_ind, str):
            self.before.setdefault(scale_ind, {})[layer] = q, k, v
            out = ConcatCache().attend(layer, q, k, v, softmax_scale=scale)
        else:
            if self.cache is None:
                self.make_cache(scale_schedule, context_info, scale)
            assert self.cache is not None
            out = self.cache.attend(layer, q, k, v, softmax_scale=scale, store=bool(last_repetition_step))
        projected: Tensor = attention.o_proj(out.transpose(1, 2).flatten(2))
        return projected

    def _make_cache(self, maps: Sequence[Map], context_info: Mapping[int, Any], softmax_scale: float) -> None:
        """Makes the cache of a clip, and hands it what was passed before the first map."""
        sizes = {name: kept[0][1].shape[2] for name, kept in self.before.items()}
        self.cache = cache = self.source.new_cache(schedule_of(maps, context_info, sizes))
        while self.before:
            kept = self.before.pop(next(iter(self.before)))
            for layer in sorted(kept):
                cache.attend(layer, *kept.pop(layer), softmax_scale=softmax_scale)


def schedule_of(maps: Sequence[Map], context_info: Mapping[int, Any], before: Mapping[str, int]) -> ScaleSchedule:
    """What a cache is told of a clip.

    Args:
        maps: its own, in order.
        context_info: of every map, which of them it reads.
        before: tokens of the text and of each condition, by name, in order; every map reads them all.

    Raises:
        SessionError: there is no text, or no map has the sides of a condition.

    >>> str(schedule_of([(1, 1, 1), (1, 2, 2)], {0: {"ref_sids": []}, 1: {"ref_sids": []}}, {"t0": 5}))
    'text(5) 1x1 2x2'
    """
    if next(iter(before), None) != TEXT:
        raise SessionError(
            f"this official InfinityStar begins a clip with {next(iter(before), 'a map')!r} instead of the text ({TEXT!r})"
        )
    front = [(1, 1, before[TEXT]), *(grid_of(name, count, maps) for name, count in before.items() if name != TEXT)]
    reads: list[list[int]] = [[] for _ in front]
    reads += [
        [*range(len(front)), *(len(front) + ref for ref in context_info[m]["ref_sids"])] for m in range(len(maps))
    ]
    return ScaleSchedule([*front, *maps], reads=reads, prefix=True)


def grid_of(name: str, tokens: int, maps: Sequence[Map]) -> Map:
    """The sides of a condition: frames as large as the last map, or as many frames as that has, as large as another one."""
    frames, rows, columns = maps[-1]
    if name == DETAIL and tokens % (rows * columns) == 0:
        return tokens // (rows * columns), rows, columns
    fitting = [(frames, h, w) for _, h, w in maps if name != DETAIL and frames * h * w == tokens]
    if not fitting:
        raise SessionError(
            f"the official InfinityStar passes {tokens} tokens as {name!r}, which fit no map of the clip"
        )
    return fitting[0]


def queries_keys_values(attention: Any, x: Tensor, grid: Tensor) -> QKV:
    """Queries (B, g H, n, D), keys and values (B, H, n, D) of x (B, n, C), normalised and rotated, in one dtype.

    Args:
        attention, x: the object's own.
        grid: cosines and sines (2, 1, 1, 1, n, D/2).
    """
    q, k, v = (
        p(x).unflatten(-1, (-1, attention.head_dim)) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    rotation = Rotation(torch.complex(*grid.float().flatten(0, -3)))
    q, k = (norm(part).transpose(1, 2) for norm, part in ((attention.q_norm, q), (attention.k_norm, k)))
    return rotation.turn(q).to(v.dtype), rotation.turn(k).to(v.dtype), v.transpose(1, 2)


class OfficialInfinityStarAdapter(OfficialAdapter):
    """InfinityStar as built by the official repository: replaces two methods of each attention instance."""

    schedule_varies = True
    images = OfficialInfinityStarImages
    call = (
        "x", "attn_bias_or_two_vector", "attn_fn", "rope2d_freqs_grid", "scale_schedule", "scale_ind", "context_info",
        "last_repetition_step", "ref_text_scale_inds",
    )  # fmt: skip
    attributes = ("num_heads", "num_key_value_heads", "head_dim", "kv_caching", "caching", "cached_k", "cached_v")
    model_attributes = ("text_proj", "word_embed", "semantic_head2", "norm_hidden_sates")
    projection = "q_proj"
    weights = WEIGHTS

    def attentions(self, model: nn.Module) -> list[Any]:
        chunks = getattr(model, "block_chunks", None)
        if not isinstance(chunks, nn.ModuleList):
            return []
        lists = [getattr(chunk, "module", None) for chunk in chunks]
        return [getattr(b, "attn", None) for blocks in lists if isinstance(blocks, nn.ModuleList) for b in blocks]

    def schedule_of(self, model: Any) -> ScaleSchedule:
        """The maps of a clip of 480p and 5 seconds behind one text token.

        It stands for the others where one must be shown: the caller chooses the maps of each clip, and a session plans each
        clip by its own.
        """
        return published("480p-5s").schedule(1)

    def geometry(self, model: nn.Module) -> CacheGeometry:
        first = self.attentions(model)[0]
        heads = first.num_key_value_heads
        return evolve(super().geometry(model), heads=heads, group=first.num_heads // heads)

    def key_dtype(self, attention: Any) -> torch.dtype | None:
        return None
