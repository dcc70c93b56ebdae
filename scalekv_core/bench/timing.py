"""One image of a contender, call by call, and what the calls take."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core.bench.contenders import BenchCache, Contender
from scalekv_core.bench.inputs import Map
from scalekv_core.clock import STAGES, Clock, NoClock

Call = Callable[[], Tensor]
Around = Callable[[int, int, Call], None]
"""Makes a call, given its scale and its place among the layers that are run."""


def draw(contender: Contender, cache: BenchCache, inputs: Sequence[Map], around: Around) -> None:
    """One image: every scale in turn, every layer that is run in turn; nothing between the calls."""
    for scale, (q, k, v) in enumerate(inputs):
        for place in range(len(contender.layers)):
            around(scale, place, functools.partial(cache.attend, place, q, k, v, softmax_scale=1.0))
    cache.close()


def weights(contender: Contender) -> NDArray[np.float64]:
    """[P] how many layers each of those that are run stands for."""
    return np.array([run.weight for run in contender.layers], dtype=np.float64)


def time_image(contender: Contender, inputs: Sequence[Map], device: torch.device) -> NDArray[np.float64]:
    """[K] seconds of attention at each scale, of all layers of the model."""
    watch = stopwatch(device)
    draw(contender, contender.new_cache(NoClock()), inputs, watch)
    return watch.seconds(len(inputs), len(contender.layers)) @ weights(contender)


def time_stages(contender: Contender, inputs: Sequence[Map], device: torch.device) -> dict[str, float]:
    """{stage: seconds} of an image, of all layers of the model; ``all`` is the time of the calls, stages and the rest.

    On CUDA the device is waited for at every stage: good for shares.
    """
    clock, watch = LayerClock(device), stopwatch(device)

    def around(scale: int, place: int, call: Call) -> None:
        clock.turn_to(place)
        watch(scale, place, call)

    draw(contender, contender.new_cache(clock), inputs, around)
    of_layers = {stage: clock.by_place(len(contender.layers), stage) @ weights(contender) for stage in STAGES}
    whole = watch.seconds(len(inputs), len(contender.layers)) @ weights(contender)
    return {**{stage: float(seconds) for stage, seconds in of_layers.items()}, "all": float(whole.sum())}


class LayerClock(Clock):
    """A clock that keeps the layers apart."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__(device)
        self._places: dict[int, dict[tuple[int, str], float]] = defaultdict(lambda: defaultdict(float))

    def turn_to(self, place: int) -> None:
        """What is measured from now on belongs to this layer."""
        self.seconds = self._places[place]

    def by_place(self, places: int, stage: str) -> NDArray[np.float64]:
        """[P] seconds of a stage in each layer."""
        return np.array([sum(s for (_, name), s in self._places[p].items() if name == stage) for p in range(places)])


class Stopwatch:
    """Seconds of calls, by the host's clock."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, int], float] = {}

    def __call__(self, scale: int, place: int, call: Call) -> None:
        start = time.perf_counter()
        out = call()
        self._seconds[scale, place] = time.perf_counter() - start
        del out  # whoever called owns it: giving it back is not timed

    def seconds(self, scales: int, places: int) -> NDArray[np.float64]:
        """[K, P]."""
        return np.array([[self._seconds[k, p] for p in range(places)] for k in range(scales)])


class CudaStopwatch(Stopwatch):
    """Seconds of calls by the device's own events, so that nobody waits between calls."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._stream = torch.cuda.current_stream(device)
        self._events: dict[tuple[int, int], tuple[torch.cuda.Event, torch.cuda.Event]] = {}
        torch.cuda.synchronize(device)

    def __call__(self, scale: int, place: int, call: Call) -> None:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(self._stream)
        call()
        stop.record(self._stream)
        self._events[scale, place] = start, stop

    def seconds(self, scales: int, places: int) -> NDArray[np.float64]:
        self._stream.synchronize()
        self._seconds = {key: start.elapsed_time(stop) / 1000 for key, (start, stop) in self._events.items()}
        return super().seconds(scales, places)


def stopwatch(device: torch.device) -> Stopwatch:
    """The one for this device."""
    return CudaStopwatch(device) if device.type == "cuda" else Stopwatch()
