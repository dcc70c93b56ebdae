"""What a layer allocates while it attends and evicts under a plan, found by running its cache on torch's meta device.

No formula says what a selector, a merger or a codec allocates for a moment: the cache itself runs, on tensors without values.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from scalekv_core.cache.kv_cache import KVCache
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.errors import ContractError, first_line
from scalekv_core.memory.dry_run import META, MetaTracker, on_meta
from scalekv_core.planning.planner import Planned


def attending_bytes(planned: Planned) -> NDArray[np.int64]:
    """[K, L] peak bytes that each layer allocates while it attends, above what it held before, without the scratch.

    Layers with the same capacities allocate the same; one of them is run.

    Raises:
        ContractError: a part of the policy does not run on tensors without values.
    """
    found: dict[object, list[int]] = {}
    for layer, groups in enumerate(planned.plan.groups):
        if groups not in found:
            found[groups] = _of_layer(planned, layer)
    return np.array([found[groups] for groups in planned.plan.groups], dtype=np.int64).T


def _of_layer(planned: Planned, layer: int) -> list[int]:
    plan, geometry = planned.plan, planned.geometry
    quota = None if plan.quota is None else plan.quota[:, [layer]]
    cache = _CountedCache(CachePlan(plan.schedule, plan.capacity[:, [layer]], quota), planned.policy)
    most = []
    for tokens in plan.schedule.tokens:
        shape = (geometry.rows, geometry.heads, tokens, geometry.head_dim)
        x = torch.empty(shape, dtype=geometry.dtype, device=META)  # made by the model, and counted with it
        q = x if geometry.group == 1 else x.new_empty(shape[0], geometry.query_heads, *shape[2:])
        most.append(_while_attending(cache, q, x, planned))
    return most


def _while_attending(cache: _CountedCache, q: torch.Tensor, x: torch.Tensor, planned: Planned) -> int:
    held, scratch = cache.tracker.live, cache.scratch_bytes
    cache.tracker.lap()
    try:
        with on_meta(cache.tracker, attended=_without_output):
            cache.attend(0, q, x, x, softmax_scale=1.0)
    except (NotImplementedError, RuntimeError) as error:  # what torch raises where values are asked for
        raise ContractError(
            f"policy {planned.policy.name!r} cannot be planned: a part of it reads the values of tensors, and a dry run has "
            f"none ({first_line(error)}); scalekv check {planned.policy.name} says which part"
        ) from error
    return cache.tracker.lap() - held - (cache.scratch_bytes - scratch)


def _without_output(query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Replaces attention and makes no output, which is counted with the model's own tensors."""
    return query


class _CountedCache(KVCache):
    """A cache whose storages are counted."""

    def __init__(self, plan: CachePlan, policy: Policy) -> None:
        super().__init__(plan, policy)
        self.tracker = MetaTracker()
