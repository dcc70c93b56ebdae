"""The contenders: the unmodified cache and policies, and which of their layers are run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

from attrs import field, frozen

from scalekv_core.cache.clock import Clock
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.cache.kv_cache import KVCache
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.contracts.plan import CachePlan, HeadGroup
from scalekv_core.contracts.tables import Tables
from scalekv_core.planning.planner import Planned
from scalekv_core.shapes.geometry import CacheGeometry


class BenchCache(AttentionCache, Protocol):
    """A cache whose bytes can be measured."""

    @property
    def scratch_bytes(self) -> int: ...

    def resident_bytes(self) -> int: ...


@frozen
class RunLayer:
    """A layer that is run, and how many layers it stands for.

    Attributes:
        layer: which one, in the model.
        stands_for: layers that hold equally much at every scale, itself among them.
    """

    layer: int
    stands_for: tuple[int, ...]

    @property
    def weight(self) -> int:
        """How many layers it stands for."""
        return len(self.stands_for)


@frozen(eq=False, kw_only=True)
class Contender(ABC):
    """A way to hold the cache of one image.

    Attributes:
        name: what it is called.
        geometry: the whole model's.
        layers: those that are run; a cache that it makes has these only, numbered from 0.
        planned: what was planned for the whole model; None if nothing was.
    """

    name: str
    geometry: CacheGeometry
    layers: tuple[RunLayer, ...]
    planned: Planned | None = None

    projects_twice: ClassVar[bool] = False
    """Whether it projects every layer's input to queries, keys and values a second time, as far as there is an input."""

    @property
    def planned_bytes(self) -> int | None:
        """Maximum planned bytes after any scale; None without a plan."""
        return None

    @abstractmethod
    def new_cache(self, clock: Clock) -> BenchCache:
        """An empty cache of the layers that are run."""


@frozen(eq=False, kw_only=True)
class Unmodified(Contender):
    """The model's own cache: concatenates everything, the last map too, with keys as the model stores them, and copies grouped
    heads to all query heads before attention."""

    @classmethod
    def of(cls, geometry: CacheGeometry, *, every_layer: bool = False) -> Unmodified:
        """Layers are all alike, so that one is run unless all are wanted."""
        layers = range(geometry.layers)
        run = [RunLayer(n, (n,)) for n in layers] if every_layer else [RunLayer(0, tuple(layers))]
        return cls(name="unmodified", geometry=geometry, layers=tuple(run))

    def new_cache(self, clock: Clock) -> BenchCache:
        return ConcatCache(
            self.geometry.schedule,
            key_dtype=self.geometry.unmodified_key_dtype or self.geometry.dtype,
            repeats=True,
            clock=clock,
        )


@frozen(eq=False, kw_only=True)
class PolicyContender(Contender):
    """``KVCache`` under a policy's plan; its images share tables, as those of one session do."""

    planned: Planned
    tables: Tables = field(factory=Tables, repr=False)

    @classmethod
    def of(cls, planned: Planned, *, every_layer: bool = False) -> PolicyContender:
        """Layer 0 stands for itself alone: it also pays for the memory of the scratch that all layers share."""
        layers = kinds_of_layers(planned.plan, every_layer=every_layer, first_alone=True)
        return cls(name=planned.policy.name, geometry=planned.geometry, layers=layers, planned=planned)

    @property
    def planned_bytes(self) -> int:
        return self.planned.footprint.most_planned

    def new_cache(self, clock: Clock) -> BenchCache:
        plan = part_of(self.planned.plan, [run.layer for run in self.layers])
        return KVCache(plan, self.planned.policy, clock=clock, tables=self.tables)


def kinds_of_layers(plan: CachePlan, *, every_layer: bool, first_alone: bool) -> tuple[RunLayer, ...]:
    """One layer of each kind: layers are of a kind if their heads hold equally much at every scale."""
    if every_layer:
        return tuple(RunLayer(layer, (layer,)) for layer in range(plan.layers))
    kinds: dict[tuple[HeadGroup, ...] | None, list[int]] = {}
    for layer, groups in enumerate(plan.groups):
        kinds.setdefault(None if first_alone and layer == 0 else groups, []).append(layer)
    return tuple(RunLayer(layers[0], tuple(layers)) for layers in kinds.values())


def part_of(plan: CachePlan, layers: Sequence[int]) -> CachePlan:
    """The same plan for these layers only, which are numbered anew from 0."""
    chosen = list(layers)
    return CachePlan(plan.schedule, plan.capacity[:, chosen], None if plan.quota is None else plan.quota[:, chosen])
