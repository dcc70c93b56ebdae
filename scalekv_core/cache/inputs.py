"""Checks what a model passes to its cache, before the cache changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scalekv_core.cache.group_store import LayerStore
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.errors import SessionError


class InputCheck:
    """Checks that queries, keys and values are the next map of one image, shaped and typed like the first one."""

    def __init__(self, plan: CachePlan, layers: Sequence[LayerStore]) -> None:
        self._heads, self._tokens = plan.heads, plan.schedule.tokens
        self._layers = layers
        self.forget()

    def forget(self) -> None:
        """Allows the next image to have other rows, another width and another dtype."""
        self._shapes: list[tuple[int, int, int, int]] = []  # of each map, as soon as the first has come
        self._dtype: torch.dtype | None = None
        self._group: int | None = None  # query heads of a key/value head

    def next_map(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> LayerStore:
        """The layer that these tensors are of.

        Raises:
            SessionError: there is no such layer, or it has seen all maps; or tensors of other shapes or another dtype, or
                that ask for gradients.
        """
        store = self._layer(layer)
        shapes, dtype = self._shapes or self._shapes_like(q), self._dtype or q.dtype
        wanted = shapes[store.scale]
        group = self._group or q.shape[1] // self._heads
        asked = wanted if group == 1 else (wanted[0], group * wanted[1], *wanted[2:])
        if not (q.shape == asked and k.shape == v.shape == wanted and q.dtype == k.dtype == v.dtype == dtype):
            got = ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in (("q", q), ("k", k), ("v", v)))
            grouped = f" and q of {asked}" if group > 1 else ""
            raise SessionError(
                f"layer {layer} at scale {store.scale} needs {'k' if grouped else 'q, k'} and v of "
                f"(rows, heads, tokens, width) = {wanted}{grouped} in {dtype}; got {got}"
            )
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            raise SessionError(
                "attention was asked for gradients, and a compressed cache has none; generate under torch.inference_mode()"
            )
        self._shapes, self._dtype, self._group = shapes, dtype, group
        return store

    def _shapes_like(self, q: Tensor) -> list[tuple[int, int, int, int]]:
        return [(q.shape[0], self._heads, tokens, q.shape[-1]) for tokens in self._tokens]

    def _layer(self, layer: int) -> LayerStore:
        if not 0 <= layer < len(self._layers):
            raise SessionError(
                f"attention of layer {layer} was called; the plan has layers 0 to {len(self._layers) - 1}"
            )
        store = self._layers[layer]
        if store.scale >= len(self._tokens):
            raise SessionError(
                f"layer {layer} received a map after the last of its schedule, which has {len(self._tokens)}; begin a new image"
            )
        return store
