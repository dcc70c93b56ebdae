"""Watches an adapter: caches that record every call and can fail, and comparisons of a model before and after."""

from __future__ import annotations

import gc
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import GenerationCase
from scalekv_core.testing.state import is_foreign
from scalekv_core.testing.testmodels import TestModel, differences, inside


class Stop(Exception):
    """A deliberate error in the middle of an image."""


class CtrlC(KeyboardInterrupt):
    """An interruption in the middle of an image."""


FAILURES = (Stop, CtrlC)


@frozen(eq=False)
class Call:
    """One call of attention: which layer, and the shape (B, H, n, D) and dtype of its keys."""

    layer: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@define(eq=False)
class Watch:
    """A source of caches that keep everything, as the unmodified model does, and record every call.

    Attributes:
        stop: the call, counted over all images, at which ``failure`` is raised.
        failure: what is raised there.
        silent: whether attention returns nothing but zeros.
        before: is called before every call of attention.
        schedules, calls, closed: of every image, what it was begun with, its calls, and how often it was closed.
        open_before: of every image, how many caches of earlier ones were not closed when its own was asked for.
        caches: weak references to the caches.
    """

    stop: int | None = None
    failure: type[BaseException] = Stop
    silent: bool = False
    before: Callable[[], None] | None = None
    schedules: list[ScaleSchedule] = field(factory=list)
    calls: list[list[Call]] = field(factory=list)
    closed: list[int] = field(factory=list)
    open_before: list[int] = field(factory=list)
    caches: list[weakref.ref[_WatchedCache]] = field(factory=list)

    def new_cache(self, schedule: ScaleSchedule | Sequence[tuple[int, int, int]]) -> _WatchedCache:
        self.schedules.append(schedule if isinstance(schedule, ScaleSchedule) else ScaleSchedule(schedule))
        self.open_before.append(self.closed.count(0))
        self.calls.append([])
        self.closed.append(0)
        cache = _WatchedCache(self, len(self.calls) - 1, self.schedules[-1])
        self.caches.append(weakref.ref(cache))
        return cache

    @property
    def alive(self) -> int:
        """Caches that something still holds."""
        gc.collect()
        return sum(cache() is not None for cache in self.caches)


class _WatchedCache(ConcatCache):
    def __init__(self, watch: Watch, image: int, schedule: ScaleSchedule) -> None:
        super().__init__(schedule)
        self._watch, self._image = watch, image

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        if self._watch.before is not None:
            self._watch.before()
        if sum(map(len, self._watch.calls)) == self._watch.stop:
            self._watch.stop = None
            raise self._watch.failure
        if store:  # a map that is passed several times is one map
            self._watch.calls[self._image].append(Call(layer, tuple(k.shape), k.dtype))
        out = super().attend(layer, q, k, v, softmax_scale=softmax_scale, store=store)
        return torch.zeros_like(out) if self._watch.silent else out

    def close(self) -> None:
        self._watch.closed[self._image] += 1
        super().close()


class Steps(TorchFunctionMode):
    """Counts the calls of torch functions, and raises at one of them: what a model can fail at outside of attention."""

    def __init__(self, stop: int | None = None, failure: type[BaseException] = Stop) -> None:
        super().__init__()
        self.taken, self._stop, self._failure = 0, stop, failure

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.taken += 1
        if self.taken - 1 == self._stop:
            raise self._failure
        return func(*args, **(kwargs or {}))


class Lines:
    """A block in which the lines of foreign code are counted, and one of them is interrupted by Ctrl-C.

    Foreign is what belongs neither to Python, nor torch, nor scalekv_core.
    """

    def __init__(self, stop: int | None = None) -> None:
        self.taken, self._stop = 0, stop
        self._before: Any = None

    def __enter__(self) -> Lines:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: types.FrameType, event: str, argument: Any) -> Any:
        name = frame.f_globals.get("__name__", "")
        return self._line if name.startswith("scalekv_core.testing.toy") or is_foreign(name) else None

    def _line(self, frame: types.FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.taken += 1
            if self.taken - 1 == self._stop:
                raise CtrlC
        return self._line


@contextmanager
def watched(adapter: ModelAdapter, module: nn.Module, watch: Watch) -> Iterator[None]:
    """A block in which the module generates with the watch's caches."""
    detach = adapter.attach(module, watch)
    try:
        yield
    finally:
        detach()


@frozen(eq=False)
class Inside:
    """What a model looks like inside, and which of it the model itself changes whenever it generates."""

    before: dict[str, Any]
    own: frozenset[str]

    @classmethod
    def of(cls, test_model: TestModel, loaded: Any, module: nn.Module, case: GenerationCase) -> Inside:
        """After one unmodified image, with what a second one changes."""
        test_model.generated(loaded, case.rows, case.seed)
        before = inside(module)
        test_model.generated(loaded, case.rows, case.seed + 1)
        own = frozenset(_attribute(change) for change in differences(before, inside(module)))
        return cls(inside(module), own)

    def changes(self, module: nn.Module) -> list[str]:
        """What is another now, in words, aside from what is the model's own doing."""
        return [change for change in differences(self.before, inside(module)) if _attribute(change) not in self.own]


def stored_bytes(module: nn.Module) -> int:
    """Bytes of the tensors that a model holds beside its weights and buffers: what it stores of an image."""
    storages: dict[int, int] = {}
    weights = {x.untyped_storage().data_ptr() for x in (*module.parameters(), *module.buffers())}

    def add(value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict) and depth:
            for item in value.values():
                add(item, depth - 1)
        elif isinstance(value, (list, tuple, set)) and depth:
            for item in value:
                add(item, depth - 1)

    for part in module.modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                add(value, 3)
    return sum(storages.values())


def _attribute(change: str) -> str:
    return change.split(" is ")[0].partition("[")[0]
