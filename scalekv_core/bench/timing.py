"""Times one image of a contender, layer by layer."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scalekv_core.bench.contenders import BenchCache, Contender
from scalekv_core.cache.clock import STAGES, Clock, NoClock

Call = Callable[[], Any]
Around = Callable[[int, int, Call], Any]
"""Makes a call, given its scale and its place among the layers that are run, and returns what comes back."""
Now = Callable[[], float]
WALL: Now = time.perf_counter
CLOCKS: dict[str, Now] = {"wall": WALL, "processor": time.process_time}
"""{name: function that returns seconds}: wall clock, or processor time of this process."""
WHOLE = -1
"""The place of a whole scale: all layers, and what surrounds them."""


class Subject(ABC):
    """What is timed: attention alone, or a whole transformer."""

    scales: int

    @abstractmethod
    def prepare(self, contender: Contender) -> None:
        """Prepares what the contender needs, once."""

    @abstractmethod
    def draw(self, contender: Contender, cache: BenchCache, around: Around) -> None:
        """One image: every scale in turn, every layer that is run in turn; each call of attention is made by ``around``."""

    @abstractmethod
    def draw_layers(self, contender: Contender, cache: BenchCache, around: Around) -> None:
        """The same, where ``around`` is given everything that a layer does, and the scale as a whole at the place WHOLE if
        anything is beside its layers."""


def weights(contender: Contender) -> NDArray[np.float64]:
    """[P] how many layers each of those that are run stands for."""
    return np.array([run.weight for run in contender.layers], dtype=np.float64)


def time_image(contender: Contender, subject: Subject, device: torch.device, now: Now = WALL) -> NDArray[np.float64]:
    """[K] seconds of each scale, of all layers of the model and what is beside them."""
    watch = stopwatch(device, now)
    subject.draw_layers(contender, contender.new_cache(NoClock()), watch)
    return watch.of_model(subject.scales, weights(contender))


def time_stages(contender: Contender, subject: Subject, device: torch.device, now: Now = WALL) -> dict[str, float]:
    """{stage: seconds} of an image, of all layers of the model; ``all`` is the time of the image, stages and the rest.

    On CUDA the device is waited for at every stage: good for shares.
    """
    clock, watch = LayerClock(device, now=now), stopwatch(device, now)

    def around(scale: int, place: int, call: Call) -> Any:
        clock.turn_to(place)
        return watch(scale, place, call)

    subject.draw_layers(contender, contender.new_cache(clock), around)
    of_layers = {stage: clock.by_place(len(contender.layers), stage) @ weights(contender) for stage in STAGES}
    whole = watch.of_model(subject.scales, weights(contender))
    return {**{stage: float(seconds) for stage, seconds in of_layers.items()}, "all": float(whole.sum())}


class LayerClock(Clock):
    """A clock that keeps the layers apart."""

    def __init__(self, device: torch.device | None = None, *, now: Now = WALL) -> None:
        super().__init__(device, now=now)
        self._places: dict[int, dict[tuple[int, str], float]] = defaultdict(lambda: defaultdict(float))

    def turn_to(self, place: int) -> None:
        """Assigns the following times to this layer."""
        self.seconds = self._places[place]

    def by_place(self, places: int, stage: str) -> NDArray[np.float64]:
        """[P] seconds of a stage in each layer."""
        return np.array([sum(s for (_, name), s in self._places[p].items() if name == stage) for p in range(places)])


class Stopwatch:
    """Seconds of calls, by a clock of the host."""

    def __init__(self, now: Now = WALL) -> None:
        self._now = now
        self._seconds: dict[tuple[int, int], float] = {}

    def __call__(self, scale: int, place: int, call: Call) -> Any:
        start = self._now()
        out = call()
        self._seconds[scale, place] = self._now() - start
        return out  # the caller owns it: freeing it is not timed

    def seconds(self, scales: int, places: int) -> NDArray[np.float64]:
        """[K, P] of the layers."""
        return np.array([[self._seconds[k, p] for p in range(places)] for k in range(scales)])

    def of_model(self, scales: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """[K] of the whole model: each layer as often as it stands for others, and what is beside layers once."""
        layers = self.seconds(scales, len(weights))
        beside = [
            self._seconds[k, WHOLE] - layers[k].sum() if (k, WHOLE) in self._seconds else 0.0 for k in range(scales)
        ]
        return layers @ weights + np.array(beside)


class CudaStopwatch(Stopwatch):
    """Seconds of calls by the device's own events, so that the host does not wait between calls."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._stream = torch.cuda.current_stream(device)
        self._events: dict[tuple[int, int], tuple[torch.cuda.Event, torch.cuda.Event]] = {}
        torch.cuda.synchronize(device)

    def __call__(self, scale: int, place: int, call: Call) -> Any:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(self._stream)
        out = call()
        stop.record(self._stream)
        self._events[scale, place] = start, stop
        return out

    def seconds(self, scales: int, places: int) -> NDArray[np.float64]:
        self._stream.synchronize()
        self._seconds = {key: start.elapsed_time(stop) / 1000 for key, (start, stop) in self._events.items()}
        return super().seconds(scales, places)


def stopwatch(device: torch.device, now: Now = WALL) -> Stopwatch:
    """The stopwatch for this device; on CUDA the device's events measure time."""
    return CudaStopwatch(device) if device.type == "cuda" else Stopwatch(now)
