"""Where the time of an image goes, stage by stage; costs nothing unless it is measured."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

STAGES = ("read", "attention", "observe", "select", "merge", "store")
"""The stages of one ``attend``: history into scratch, attention, statistics, selection, folding, gather and encode."""


class Clock:
    """Seconds per (scale, stage). On CUDA every stage waits for the device, so use it for shares, not for totals.

    Args:
        device: to wait for.
        now: tells the time; by default the clock on the wall.
    """

    def __init__(self, device: torch.device | None = None, *, now: Callable[[], float] | None = None) -> None:
        self.seconds: dict[tuple[int, str], float] = defaultdict(float)
        self._now = now or time.perf_counter
        self._wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else _nothing

    @contextmanager
    def stage(self, scale: int, stage: str) -> Iterator[None]:
        """Adds the time spent inside to (scale, stage)."""
        self._wait()
        start = self._now()
        yield
        self._wait()
        self.seconds[scale, stage] += self._now() - start

    def total(self, *stages: str) -> float:
        """Seconds of these stages, or of all."""
        return sum(seconds for (_, stage), seconds in self.seconds.items() if not stages or stage in stages)


class NoClock(Clock):
    """A clock that measures nothing."""

    _idle: AbstractContextManager[None] = nullcontext()

    def stage(self, scale: int, stage: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._idle


def _nothing() -> None:
    return None
