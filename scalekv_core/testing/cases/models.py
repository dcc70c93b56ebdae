"""Cases for what is decided before or while an image is generated: the shape of a model, a profile, roles, a budget."""

from __future__ import annotations

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import in_
from torch import Tensor

from scalekv_core.contracts.profile import FRACTIONS, FURTHER, AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases.base import Case, read_maps
from scalekv_core.testing.cases.numbers import CONTENTS, DTYPES, LAYOUTS, laid_out, numbers

SPREADS = ("mixed", "layers", "one", "late")
"""How roles are spread: anyhow, the same in all heads and scales of a layer, one head alone, another from the middle on."""


@frozen(kw_only=True, repr=False)
class ModelCase(Case):
    """The shape of a model, its schedule and its batch."""

    maps: ScaleSchedule = field(default=ScaleSchedule([(1, 1), (1, 1)]), converter=read_maps)
    layers: int = 1
    heads: int = 1
    group: int = 1
    width: int = 1
    rows: int = 1
    dtype: str = field(default="float32", validator=in_(DTYPES))
    seed: int = 0

    @property
    def geometry(self) -> CacheGeometry:
        return CacheGeometry(
            schedule=self.maps,
            layers=self.layers,
            heads=self.heads,
            group=self.group,
            head_dim=self.width,
            rows=self.rows,
            dtype=DTYPES[self.dtype],
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """[K, L, H]."""
        return len(self.maps), self.layers, self.heads

    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({str(self)!r})"


@frozen(kw_only=True, repr=False)
class ProfileCase(ModelCase):
    """A model and what calibration measured of it.

    Attributes:
        content: of the attention, ``ordinary``, ``flat`` or ``peaked``.
        fractions: which shares of the history were measured: the ``usual`` ones, these in ``reverse``, or with ``more``.
        name: of the model.
    """

    content: str = field(default="ordinary", validator=in_(("ordinary", "flat", "peaked")))
    fractions: str = field(default="usual", validator=in_(("usual", "reverse", "more")))
    name: str = "synthetic"

    def profile(self) -> AttentionProfile:
        """Random shares of attention that sum to 1, with a concentration that grows with the fraction."""
        rng, scales, shape = np.random.default_rng(self.seed), len(self.maps), self.shape
        mass = np.zeros((*shape, scales), dtype=np.float32)
        for k in range(scales):
            flat = self.content == "flat"
            raw = np.ones((*shape[1:], k + 1)) if flat else rng.exponential(size=(*shape[1:], k + 1))
            raw = raw**8 if self.content == "peaked" else raw
            mass[k, ..., : k + 1] = raw / raw.sum(axis=-1, keepdims=True)
        share = np.sort(rng.uniform(0.05, 1, (*shape, len(FRACTIONS)))) if self.content != "flat" else FRACTIONS
        share = np.broadcast_to(share, (*shape, len(FRACTIONS))).astype(np.float32)
        share[0] = 1.0
        fractions: tuple[float, ...] = FRACTIONS
        if self.fractions == "reverse":
            fractions, share = fractions[::-1], share[..., ::-1].copy()
        if self.fractions == "more":
            fractions = (0.001, *fractions)
            share = np.concatenate([share[..., :1] / np.float32(2), share], axis=-1)
        entropy, variance = (rng.uniform(0.1, 5, self.shape).astype(np.float32) for _ in FURTHER)
        return AttentionProfile(
            model=self.name,
            schedule=self.maps,
            mass=mass,
            fractions=fractions,
            top_share=share.astype(np.float32),
            entropy=entropy,
            column_variance=variance,
        )


@frozen(kw_only=True, repr=False)
class PlanCase(ModelCase):
    """A model, the roles that some classifier gave its layers and heads, and a budget.

    Attributes:
        roles: names of the roles, separated by commas.
        spread: who plays which, see :data:`SPREADS`.
        budget: as text.
    """

    roles: str = "any"
    spread: str = field(default="mixed", validator=in_(SPREADS))
    budget: str = "100%"

    def layer_roles(self) -> LayerRoles:
        names, shape = tuple(self.roles.split(",")), self.shape
        rng = np.random.default_rng(self.seed)
        labels = rng.integers(len(names), size=shape)
        if self.spread == "layers":
            labels = np.broadcast_to(labels[:1, :, :1], shape)
        elif self.spread == "one":
            labels = np.zeros(shape, dtype=np.int64)
            labels[:, rng.integers(shape[1]), rng.integers(shape[2])] = len(names) - 1
        elif self.spread == "late":
            labels = np.broadcast_to(labels[:1], shape).copy()
            labels[shape[0] // 2 :] = len(names) - 1 - labels[shape[0] // 2 :]
        return LayerRoles(names, labels.astype(np.int8))


@frozen(kw_only=True, repr=False)
class ImageCase(ModelCase):
    """A model, a budget, and the queries, keys and values of one image.

    Heads are at least 2 wide: where they are 1, torch's attention on CPU gives other bits for another memory layout.

    Attributes:
        budget: as text; "" takes the policy's own.
        content, layout: of queries, keys and values.
    """

    width: int = 2
    budget: str = "100%"
    content: str = field(default="ordinary", validator=in_(CONTENTS))
    layout: str = field(default="plain", validator=in_(LAYOUTS))
    device: str = "cpu"

    def image(self, geometry: CacheGeometry) -> list[tuple[Tensor, Tensor, Tensor]]:
        """q, k, v (B, H, all tokens, D) of every layer."""
        generator = torch.Generator().manual_seed(self.seed)

        def made(heads: int) -> Tensor:
            shape = (geometry.rows, heads, geometry.schedule.total, geometry.head_dim)
            x = numbers(shape, self.content, geometry.dtype, generator).to(self.device)
            return laid_out(x, self.layout)

        heads = geometry.query_heads, geometry.heads, geometry.heads
        return [(made(heads[0]), made(heads[1]), made(heads[2])) for _ in range(geometry.layers)]
