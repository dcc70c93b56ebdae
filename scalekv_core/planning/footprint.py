"""The exact bytes of a plan, before anything is allocated."""

from __future__ import annotations

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from scalekv_core.contracts.encoded import KINDS
from scalekv_core.contracts.plan import CachePlan, HeadGroup
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.steps import Step
from scalekv_core.shapes.geometry import CacheGeometry


@frozen(kw_only=True)
class Footprint:
    """Bytes of a cache under a plan.

    Attributes:
        planned: [K] bytes held after each scale: keys, values, positions, counts and statistics.
        scratch: bytes of the buffers that history is read into, shared by all layers.
        unmodified: what the unmodified model holds at the end, its last map too.
    """

    planned: tuple[int, ...]
    scratch: int
    unmodified: int

    @property
    def most_planned(self) -> int:
        """Maximum bytes held after any scale."""
        return max(self.planned)


def footprint(plan: CachePlan, policy: Policy, geometry: CacheGeometry, *, ahead: bool = False) -> Footprint:
    """The bytes of this plan under this policy in this model and batch.

    Args:
        plan, policy, geometry: whose.
        ahead: whether histories come ahead of attention (see :mod:`scalekv_core.cache.prefetch`), into buffers of their own.
    """
    return Footprint(
        planned=tuple(layer_bytes(plan, policy, geometry).sum(axis=1).tolist()),
        scratch=scratch_bytes(plan, geometry, ahead=ahead),
        unmodified=geometry.unmodified_bytes,
    )


def scratch_bytes(plan: CachePlan, geometry: CacheGeometry, *, ahead: bool) -> int:
    """Bytes of the scratch buffers; twice as many if the next history is copied while the current one is read."""
    buffers = 1 + (ahead and _anything_comes(plan))
    return buffers * scratch_slots(plan) * geometry.slot_bytes * geometry.rows


def _anything_comes(plan: CachePlan) -> bool:
    """Whether another head group's history can be fetched during attention; with one group there is none."""
    groups = [group for groups in plan.groups for group in groups]
    return len(groups) > 1 and any(held for group in groups for held in group.held[:-1])


def scratch_slots(plan: CachePlan) -> int:
    """Maximum of heads x tokens, history and map, that one head group reads at once.

    What is kept whole is read into memory of its own, but then the next map is read with all of it.
    """
    most = 0
    for group in (group for groups in plan.groups for group in groups):
        before = (0, *group.held[:-1])
        most = max(most, len(group.heads) * max(map(sum, zip(before, plan.schedule.tokens, strict=True))))
    return most


def layer_bytes(
    plan: CachePlan, policy: Policy, geometry: CacheGeometry, *, on_device: bool = False
) -> NDArray[np.int64]:
    """[K, L] bytes that each layer holds after each scale; with ``on_device`` without codes in the host's memory."""
    codes = not (on_device and policy.codec.leaves_device)
    alike: dict[HeadGroup, list[int]] = {}
    for groups in plan.groups:
        for group in groups:
            if group not in alike:
                scales = range(len(plan.schedule))
                alike[group] = [_group_bytes(plan, policy, geometry, group, scale, codes) for scale in scales]
    held = [np.sum([alike[group] for group in groups], axis=0) for groups in plan.groups]
    return np.array(held, dtype=np.int64).T


def _group_bytes(
    plan: CachePlan, policy: Policy, geometry: CacheGeometry, group: HeadGroup, scale: int, with_codes: bool
) -> int:
    tokens, heads, rows = group.held[scale], len(group.heads), geometry.rows
    if tokens == 0:
        return 0
    cut = _has_gaps(plan, group, scale)
    counted = not policy.merger.drops and _is_counted(plan, group, scale)
    words = len(policy.selector.statistics) + cut + counted
    maps = _encoded_maps(plan, policy, group, scale)
    codes = sum(
        policy.codec.nbytes(
            kind,
            rows=rows,
            heads=heads,
            tokens=tokens,
            maps=maps,
            head_dim=geometry.head_dim,
            dtype=geometry.dtype,
        )
        for kind in KINDS
        if with_codes
    )
    return codes + words * torch.float32.itemsize * rows * heads * tokens


def _encoded_maps(plan: CachePlan, policy: Policy, group: HeadGroup, scale: int) -> int:
    """How many separately encoded tensors the held codes come from: one per map, or one after folding."""
    maps, before = 0, 0
    if steps := group.steps(plan.schedule):
        for step in steps[: scale + 1]:
            folded = step.stored and step.text < step.held < step.remains and not policy.merger.drops
            maps = _encoded_after(maps, step, folded=folded)
        return maps
    for held, new in zip(group.held[: scale + 1], plan.schedule.tokens, strict=False):
        folded = held < before + new and not policy.merger.drops
        maps = (1 if folded else maps + 1) if held else 0
        before = held
    return maps


def _encoded_after(maps: int, step: Step, *, folded: bool) -> int:
    """The number of encoded tensors after one more step."""
    if not step.held or not step.stored:
        return maps if step.held else 0
    return 1 if folded or step.begins_anew else maps + 1


def _has_gaps(plan: CachePlan, group: HeadGroup, scale: int) -> bool:
    """Whether held tokens have gaps between them, so that positions have to be stored."""
    if steps := group.steps(plan.schedule):
        return steps[scale].gaps
    cut, before = False, 0
    for held, new in zip(group.held[: scale + 1], plan.schedule.tokens, strict=False):
        cut = bool(held) and (cut or held < before + new)
        before = held
    return cut


def _is_counted(plan: CachePlan, group: HeadGroup, scale: int) -> bool:
    """Whether a merger that folds has counts of what is held."""
    steps = group.steps(plan.schedule)
    return steps[scale].counted if steps else _has_gaps(plan, group, scale)
