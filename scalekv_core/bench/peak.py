"""The peak of what is held during an image, without the tensors of the model itself.

Counted: everything that a cache makes while it attends and that lives at that moment: what is held, scratch, the copies
of eviction, scores and their intermediates. Not counted: the queries, keys and values that come in, and the attention that
goes out; the workspace inside a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core.bench.contenders import Contender, RunLayer
from scalekv_core.bench.timing import Call, Subject
from scalekv_core.cache.clock import NoClock
from scalekv_core.memory.meter import ProcessPeak, StorageTracker


@frozen(kw_only=True)
class MemoryFigures:
    """Bytes of a cache of the whole model.

    Attributes:
        planned: the most that is held after any scale, by the plan; for the unmodified cache by its definition.
        resident: the same, as it was found; layers that did not run are counted like those that stand for them.
        scratch: of the buffers that all layers share.
        peak: the most at one moment.
        peak_scale, peak_layer: when that is.
        process: the most memory that the whole process had on the device while these layers ran, weights and
            activations included; None where the system does not tell.
    """

    planned: int | None
    resident: int
    scratch: int
    peak: int
    peak_scale: int
    peak_layer: int
    process: int | None = None

    @property
    def over_plan(self) -> float | None:
        """Peak over planned and scratch; 1 would be eviction without any copy."""
        return None if self.planned is None else self.peak / max(1, self.planned + self.scratch)


class Ledger(StorageTracker):
    """A tracker that records every storage, so that single ones can be left out afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[tuple[int, int]] = []  # (number of the storage, bytes), negative when it goes
        self._numbers: dict[int, int] = {}
        self._next = 0

    def mark(self) -> None:
        """Begins a new section."""
        self._entries.clear()

    def most(self, *, without: Tensor) -> int:
        """Peak bytes since the mark, without the storage of this tensor."""
        left_out = self._numbers.get(id(without.untyped_storage()))
        sizes = [0, *(size for number, size in self._entries if number != left_out)]
        return max(0, int(np.cumsum(sizes).max()))

    def _freed(self, key: int, size: int) -> Callable[[Any], None]:
        number = self._numbers[key] = self._next
        self._next += 1
        self._entries.append((number, size))
        free = super()._freed(key, size)

        def noted(reference: Any) -> None:
            self._entries.append((number, -size))
            free(reference)

        return noted


@frozen(eq=False, kw_only=True)
class Weighed:
    """The figures of one image while its layers ran.

    Attributes:
        held: [K, P] bytes that each of them holds after each scale.
        extra: [K, P] the most during each call above what was there before it, scratch left out.
        scratch: bytes of the buffers shared by all layers.
        scratch_since: (scale, place) of the call that made them; None if none did.
    """

    held: NDArray[np.int64]
    extra: NDArray[np.int64]
    scratch: int
    scratch_since: tuple[int, int] | None


def measure_memory(contender: Contender, subject: Subject, device: torch.device) -> MemoryFigures:
    """The memory figures of one image, which runs slightly slower than usual.

    A layer's attention does not touch what other layers hold. So the peak of the whole model is put together from
    the layers that were run: at every scale and layer, what all layers hold by then, scratch, and what the call takes.
    """
    subject.prepare(contender)
    with ProcessPeak(device) as process:
        weighed = weigh(contender, subject)
    peak, scale, layer = whole_peak(weighed, contender.layers)
    return MemoryFigures(
        planned=contender.planned_bytes,
        resident=int(weighed.held[:, _places(contender.layers)].sum(axis=1).max()),
        scratch=weighed.scratch,
        peak=peak,
        peak_scale=scale,
        peak_layer=layer,
        process=process.bytes,
    )


def weigh(contender: Contender, subject: Subject) -> Weighed:
    """Runs one image and records the bytes of every call."""
    cache, ledger = contender.new_cache(NoClock()), Ledger()
    grown, extra = np.zeros((2, subject.scales, len(contender.layers)), dtype=np.int64)
    since: dict[str, tuple[int, int]] = {}
    scratch = 0

    def around(scale: int, place: int, call: Call) -> Tensor:
        nonlocal scratch
        held = cache.resident_bytes()
        ledger.mark()
        with ledger:
            out: Tensor = call()
        extra[scale, place] = ledger.most(without=out) - (cache.scratch_bytes - scratch)
        grown[scale, place] = cache.resident_bytes() - held
        scratch = cache.scratch_bytes
        if scratch:
            since.setdefault("call", (scale, place))
        return out

    subject.draw(contender, cache, around)
    return Weighed(held=grown.cumsum(axis=0), extra=extra, scratch=scratch, scratch_since=since.get("call"))


def whole_peak(weighed: Weighed, layers: Sequence[RunLayer]) -> tuple[int, int, int]:
    """(bytes, scale, layer) of the peak of the whole model, all layers in turn at every scale."""
    places = _places(layers)
    after = weighed.held[:, places]  # [K, L]
    before = np.vstack([np.zeros_like(after[:1]), after[:-1]])
    earlier = np.cumsum(after, axis=1) - after  # layers that have seen the scale
    later = np.cumsum(before[:, ::-1], axis=1)[:, ::-1]  # those that have not, the layer itself among them
    live = earlier + later + weighed.extra[:, places] + _scratch(weighed, layers, after.shape)
    scale, layer = np.unravel_index(int(live.argmax()), live.shape)
    return int(live.max()), int(scale), int(layer)


def _scratch(weighed: Weighed, layers: Sequence[RunLayer], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """[K, L] bytes of scratch that there are by then."""
    there = np.zeros(shape, dtype=np.int64)
    if weighed.scratch_since is not None:
        scale, place = weighed.scratch_since
        there[scale, layers[place].layer :] = weighed.scratch
        there[scale + 1 :] = weighed.scratch
    return there


def _places(layers: Sequence[RunLayer]) -> NDArray[np.int64]:
    """[L] the index of the run layer that stands for each layer."""
    of_layer = {layer: place for place, run in enumerate(layers) for layer in run.stands_for}
    return np.array([of_layer[layer] for layer in sorted(of_layer)])
