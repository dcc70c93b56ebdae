"""The plan of one image's cache: what every head of every layer may hold after every scale, and its bytes."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from attrs import field, frozen
from attrs.converters import optional
from numpy.typing import NDArray

from scalekv_core.contracts.liveness import alive_prefix, held_of, shares_of
from scalekv_core.contracts.steps import Step, steps_of
from scalekv_core.errors import ContractError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule


def _whole_numbers(values: object) -> NDArray[np.int64]:
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise ContractError(f"a cache plan counts tokens in integers; got {array.dtype}")
    return array.astype(np.int64)


@frozen
class HeadGroup:
    """Heads of one layer that hold equally much at every scale, so that they can be stored as one dense tensor.

    Attributes:
        heads: their indices in the layer.
        held: tokens held after each scale.
        quota: tokens held after each scale [K] of each source scale [K], or None.
    """

    heads: tuple[int, ...]
    held: tuple[int, ...]
    quota: tuple[tuple[int, ...], ...] | None = None

    def steps(self, schedule: ScaleSchedule) -> tuple[Step, ...] | None:
        """What becomes of its tokens at each scale; None for a plain schedule."""
        return steps_of(schedule, self.held, self.quota)


@frozen(eq=False)
class CachePlan:
    """How many tokens each head may hold after each scale, as the history of the next.

    Attributes:
        schedule: the maps, K of them.
        capacity: [K, L, H] tokens; an upper bound, since no head can hold more than it held before plus the new map.
            The last row is zero: no later scale attends to the last map. Where no later map reads the current one, it is
            not stored, nothing else is evicted, and the capacity is not used.
        quota: [K, L, H, K] of ``capacity``, how many tokens of each source scale; None leaves that to the selector. Where
            maps that are held together have different readers, they are then shared out in proportion to their sizes.

    Raises:
        ContractError: wrong shapes, negative numbers, a last row that stores something, less than the text prefix, quotas
            that can't be met.

    >>> schedule = ScaleSchedule.square(1, 2, 3)
    >>> plan = CachePlan(schedule, np.array([[[9]], [[3]], [[0]]]))
    >>> plan.held[:, 0, 0].tolist()
    [1, 3, 0]
    """

    schedule: ScaleSchedule
    capacity: NDArray[np.int64] = field(converter=_whole_numbers)
    quota: NDArray[np.int64] | None = field(default=None, converter=optional(_whole_numbers))

    def __attrs_post_init__(self) -> None:
        scales, capacity = len(self.schedule), self.capacity
        if capacity.ndim != 3 or len(capacity) != scales or not capacity.size:
            raise ContractError(f"capacity is [K={scales}, L, H]; got shape {capacity.shape}")
        if capacity.min() < 0:
            raise ContractError(f"capacity counts tokens; got {capacity.min()}")
        if capacity[-1].any():
            raise ContractError("capacity after the last scale must be 0: no later scale attends to it")
        for scale in range(scales - 1):
            prefix = alive_prefix(self.schedule, scale)
            if capacity[scale].min() < prefix:
                raise ContractError(
                    f"capacity after scale {scale} is {capacity[scale].min()}; the text prefix takes {prefix} and is kept"
                )
        if self.quota is not None:
            self._check_quota(self.quota)

    def _check_quota(self, quota: NDArray[np.int64]) -> None:
        scales = len(self.schedule)
        if quota.shape != (*self.capacity.shape, scales):
            raise ContractError(f"quota is [K, L, H, K] = {(*self.capacity.shape, scales)}; got {quota.shape}")
        ceiling = np.zeros_like(quota[0])
        for k in range(scales):
            ceiling[..., k] = self.schedule.tokens[k]
            if (quota[k] > ceiling).any() or (quota[k] < 0).any():
                raise ContractError(
                    f"quota after scale {k} keeps tokens of a source scale that were evicted before or are not generated yet"
                )
            ceiling = quota[k].copy()
        if (quota.sum(axis=-1) > self.capacity).any():
            raise ContractError("quotas of the source scales add up to more than the capacity")

    @cached_property
    def held(self) -> NDArray[np.int64]:
        """[K, L, H] tokens that are really held: min(capacity, what was held before + the new map), or the quota."""
        if self.shares is not None:
            return self.shares.sum(axis=-1)
        if not self.schedule.is_plain:
            return held_of(self.schedule, self.capacity)
        held = np.empty_like(self.capacity)
        before = np.zeros_like(self.capacity[0])
        for k, new in enumerate(self.schedule.tokens):
            before = held[k] = np.minimum(self.capacity[k], before + new)
        return held

    @cached_property
    def shares(self) -> NDArray[np.int64] | None:
        """[K, L, H, K] tokens that are really held of each source scale; None where that is left to the selector."""
        if self.schedule.is_plain or (self.quota is None and not self.schedule.tells_maps_apart):
            return self.quota
        return shares_of(self.schedule, self.capacity, self.quota)

    @property
    def layers(self) -> int:
        return self.capacity.shape[1]

    @property
    def heads(self) -> int:
        return self.capacity.shape[2]

    def slots(self) -> NDArray[np.int64]:
        """[K] tokens held after each scale, summed over layers and heads, of one row."""
        return self.held.sum(axis=(1, 2))

    @property
    def drops(self) -> bool:
        """Whether any token that a later scale could attend to is evicted."""
        return bool((self.held < np.asarray(self.schedule.keepable())[:, None, None]).any())

    @cached_property
    def groups(self) -> tuple[tuple[HeadGroup, ...], ...]:
        """The head groups of every layer; one group where all heads hold equally much."""
        return tuple(self._groups_of(layer) for layer in range(self.layers))

    def _groups_of(self, layer: int) -> tuple[HeadGroup, ...]:
        members: dict[tuple[tuple[int, ...], tuple[tuple[int, ...], ...] | None], list[int]] = {}
        for head in range(self.heads):
            held = tuple(self.held[:, layer, head].tolist())
            quota = None if self.shares is None else tuple(map(tuple, self.shares[:, layer, head].tolist()))
            members.setdefault((held, quota), []).append(head)
        return tuple(HeadGroup(tuple(heads), held, quota) for (held, quota), heads in members.items())

    def with_prefix(self, schedule: ScaleSchedule) -> CachePlan:
        """The plan of a schedule with a text prefix, which every head holds, from that of its maps alone."""
        text = np.array([alive_prefix(schedule, k) for k in range(len(schedule))])
        capacity = np.concatenate([np.zeros_like(self.capacity[:1]), self.capacity]) + text[:, None, None]
        if self.quota is None:
            return CachePlan(schedule, capacity)
        quota = np.pad(self.quota, ((1, 0), (0, 0), (0, 0), (1, 0)))
        quota[..., 0] = text[:, None, None]
        return CachePlan(schedule, capacity, quota)

    def check_fits(self, geometry: CacheGeometry) -> None:
        """Raises ContractError if this is a plan for another model."""
        shape = (len(geometry.schedule), geometry.layers, geometry.heads)
        if self.capacity.shape != shape or self.schedule != geometry.schedule:
            raise ContractError(
                f"the plan is for [K, L, H] = {self.capacity.shape} and maps {self.schedule}; "
                f"the model has {shape} and maps {geometry.schedule}; plan again for this model"
            )


def everything(geometry: CacheGeometry) -> CachePlan:
    """The plan that keeps all that a later scale reads."""
    keepable = np.asarray(geometry.schedule.keepable(), dtype=np.int64)[:, None, None]
    return CachePlan(geometry.schedule, np.broadcast_to(keepable, (len(keepable), geometry.layers, geometry.heads)))
