"""The default parts: one role, drop evicted tokens, store without loss. A policy that names no part has these."""

from __future__ import annotations

from typing import ClassVar

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.encoded import Encoded, Kind
from scalekv_core.contracts.plan import CachePlan, everything
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator, CacheCodec, LayerClassifier, TokenMerger
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.geometry import CacheGeometry


@frozen
class Everything(BudgetAllocator):
    """Every layer and head holds the whole history, whatever the budget."""

    spends_all: ClassVar[bool] = False

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        return everything(geometry)


@frozen
class OneRole(LayerClassifier):
    """Gives every layer and head the same role."""

    def classify(self, profile: AttentionProfile | None, geometry: CacheGeometry) -> LayerRoles:
        return LayerRoles.alike("any", geometry)


@frozen
class Drop(TokenMerger):
    """Drops every evicted token, as most papers do."""

    drops: ClassVar[bool] = True

    def assign(self, view: CacheView, kept: Tensor) -> Tensor:
        target = torch.full(view.positions.shape, -1, dtype=torch.int64, device=kept.device)
        return target.scatter_(2, kept, ops.all_tokens(kept, 0, kept.shape[2]))


@frozen
class Dense(CacheCodec):
    """Stores keys and values as attention reads them: exact, 2 x head width x element size bytes per token."""

    dense: ClassVar[bool] = True

    @property
    def kinds_alike(self) -> bool:
        return True

    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        return Encoded({"x": x.clone(memory_format=torch.contiguous_format)})

    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        out.copy_(stored.tokens["x"])

    def nbytes(
        self, kind: Kind, *, rows: int, heads: int, tokens: int, maps: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return rows * heads * tokens * head_dim * dtype.itemsize

    def keep(self, stored: Encoded | None, current: Tensor, whole: Tensor, index: Tensor | None, kind: Kind) -> Encoded:
        return self.encode(whole, kind) if index is None else Encoded({"x": ops.gather_tokens(whole, index)})
