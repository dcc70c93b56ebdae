"""What eviction in the released ScaleKV code costs: a stand-in, written from a description of that code.

github.com/StargazerX0/ScaleKV at eb0615a, for arXiv 2505.19602. Its work is repeated step by step, on the same queries,
keys and values as the others; which tokens it picks does not matter, and is not checked. It projects q, k
and v of every map and layer a second time for its scores (a fifth more matrix products in a block): that is repeated where
a whole transformer is measured, and left out where attention alone is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from scalekv_core.bench.contenders import BenchCache, Contender, kinds_of_layers, part_of
from scalekv_core.cache.clock import Clock
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.planning.planner import Planned
from scalekv_core.shapes.schedule import Map

WINDOW, KERNEL = 16, 5


@frozen(eq=False, kw_only=True)
class ReleasedCode(Contender):
    """The eviction of the released code, with the capacities of a policy's plan."""

    planned: Planned

    projects_twice = True

    @classmethod
    def of(cls, planned: Planned, *, every_layer: bool = False) -> ReleasedCode:
        layers = kinds_of_layers(planned.plan, every_layer=every_layer, first_alone=False)
        return cls(name="released", geometry=planned.geometry, layers=layers, planned=planned)

    def new_cache(self, clock: Clock) -> BenchCache:
        plan = part_of(self.planned.plan, [run.layer for run in self.layers])
        return ReleasedCache(plan, self.geometry.unmodified_key_dtype or self.geometry.dtype, clock)


class ReleasedCache(ConcatCache):
    """Concatenates as the unmodified model does, and then evicts; also after the last scale, to which no later scale attends.

    Args:
        plan: how much a layer keeps after each scale (of its heads, the largest); after the last as after the one before.
        key_dtype: in which keys are kept and scored.
        clock: measures the stages.
    """

    def __init__(self, plan: CachePlan, key_dtype: torch.dtype, clock: Clock) -> None:
        super().__init__(key_dtype=key_dtype, clock=clock)
        self._maps = plan.schedule.maps
        held = plan.held.max(axis=2)
        held[-1] = held[-2] if len(held) > 1 else plan.schedule.total
        self._keep: list[list[int]] = held.tolist()

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        scale = self._scales[layer]
        out = super().attend(layer, q, k, v, softmax_scale=softmax_scale, store=store)
        if not store:
            return out
        keys, values = self.keys[layer], self.values[layer]
        keep = self._keep[scale][layer]
        if keep < keys.shape[2]:
            with self._clock.stage(scale, "select"):
                index = released_choice(q, keys, self._maps[scale], keep)
            with self._clock.stage(scale, "store"):
                self.keys[layer], self.values[layer] = released_gather(keys, values, index)
        return out


def released_choice(q: Tensor, keys: Tensor, sizes: Map, keep: int) -> Tensor:
    """(B, H, keep) the tokens of the window, and the best others by max-pooled sums of raw logits."""
    window = window_of(sizes, q.device)[:keep]
    observed = _observed(q, window)
    inside = torch.zeros(keys.shape[:3], dtype=torch.bool, device=q.device)
    inside[:, :, window + keys.shape[2] - q.shape[2]] = True
    logits = torch.matmul(observed.to(keys.dtype), keys.transpose(2, 3)) / math.sqrt(keys.shape[3])
    logits = logits.masked_fill(inside.unsqueeze(2), -torch.inf)
    pooled = F.max_pool1d(logits.sum(dim=2), KERNEL, stride=1, padding=KERNEL // 2).masked_fill(inside, -torch.inf)
    best = pooled.topk(keep - window.shape[0], dim=-1).indices
    own = (window + keys.shape[2] - q.shape[2]).expand(*best.shape[:2], -1)
    return torch.cat([best, own], dim=2).sort(dim=2).values


def _observed(q: Tensor, window: Tensor) -> Tensor:
    """(B, H, W, D) the window's queries, which are the same for every row and head and yet sought in each of them."""
    rows, heads = q.shape[:2]
    index = window.expand(rows, heads, -1)
    unique = [[torch.unique(index[row, head]) for head in range(heads)] for row in range(rows)]
    return torch.stack([torch.stack([q[row, head][unique[row][head]] for head in range(heads)]) for row in range(rows)])


def released_gather(keys: Tensor, values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values at ``index``; the clamp makes an int64 of every element of what is gathered."""
    wide = torch.clamp(index.unsqueeze(-1).expand(*index.shape, keys.shape[3]), 0, keys.shape[2] - 1)
    return keys.gather(2, wide), values.gather(2, wide)


def window_of(sizes: Map, device: torch.device) -> Tensor:
    """(W,) the centres of 4 x 4 patches of a square map, or the end of any other."""
    (t, h, w), side = sizes, math.isqrt(WINDOW)
    if t != 1 or h != w or h < side:
        return torch.arange(max(0, t * h * w - WINDOW), t * h * w, device=device)
    along = torch.arange(side, device=device) * (h // side) + (h // side - 1) // 2
    return (along[:, None] * w + along).flatten()
