"""Watching an adapter at work: caches that note every call and fail when told to, and a look inside before and after."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import DrawCase
from scalekv_core.testing.specimens import Specimen, differences, inside


class Stop(Exception):
    """What goes wrong in the middle of an image, on purpose."""


@frozen(eq=False)
class Call:
    """One call of attention: which layer, and the shape (B, H, n, D) and dtype of its keys."""

    layer: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@define(eq=False)
class Watch:
    """A source of caches that keep everything, as the unmodified model does, and that note every call.

    Attributes:
        stop: the call, counted over all images, at which :class:`Stop` is raised.
        silent: whether attention returns nothing but zeros.
        schedules, calls, closed: of every image, what it was begun with, its calls, and how often it was closed.
        caches: weak references to the caches.
    """

    stop: int | None = None
    silent: bool = False
    schedules: list[ScaleSchedule] = field(factory=list)
    calls: list[list[Call]] = field(factory=list)
    closed: list[int] = field(factory=list)
    caches: list[weakref.ref[_WatchedCache]] = field(factory=list)

    def new_cache(self, schedule: ScaleSchedule | Sequence[tuple[int, int, int]]) -> _WatchedCache:
        self.schedules.append(schedule if isinstance(schedule, ScaleSchedule) else ScaleSchedule(schedule))
        self.calls.append([])
        self.closed.append(0)
        cache = _WatchedCache(self, len(self.calls) - 1)
        self.caches.append(weakref.ref(cache))
        return cache

    @property
    def alive(self) -> int:
        """Caches that something still holds."""
        gc.collect()
        return sum(cache() is not None for cache in self.caches)


class _WatchedCache(ConcatCache):
    def __init__(self, watch: Watch, image: int) -> None:
        super().__init__()
        self._watch, self._image = watch, image

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float) -> Tensor:
        if sum(map(len, self._watch.calls)) == self._watch.stop:
            self._watch.stop = None
            raise Stop
        self._watch.calls[self._image].append(Call(layer, tuple(k.shape), k.dtype))
        out = super().attend(layer, q, k, v, softmax_scale=softmax_scale)
        return torch.zeros_like(out) if self._watch.silent else out

    def close(self) -> None:
        self._watch.closed[self._image] += 1
        super().close()


@contextmanager
def watched(adapter: ModelAdapter, module: nn.Module, watch: Watch) -> Iterator[None]:
    """A block in which the module draws with the watch's caches."""
    detach = adapter.attach(module, watch)
    try:
        yield
    finally:
        detach()


@frozen(eq=False)
class Inside:
    """What a model looks like inside, and which of it the model itself changes whenever it draws."""

    before: dict[str, Any]
    own: frozenset[str]

    @classmethod
    def of(cls, specimen: Specimen, loaded: Any, module: nn.Module, case: DrawCase) -> Inside:
        """After one unmodified image, with what a second one changes."""
        specimen.drawn(loaded, case.rows, case.seed)
        before = inside(module)
        specimen.drawn(loaded, case.rows, case.seed + 1)
        own = frozenset(_attribute(change) for change in differences(before, inside(module)))
        return cls(inside(module), own)

    def changes(self, module: nn.Module) -> list[str]:
        """What is another now, in words, aside from what is the model's own doing."""
        return [change for change in differences(self.before, inside(module)) if _attribute(change) not in self.own]


def _attribute(change: str) -> str:
    return change.split(" is ")[0].partition("[")[0]
