"""The cache of one image, as a model's attention uses it; it checks that the image is its session's current one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from scalekv_core.cache.kv_cache import KVCache
from scalekv_core.cache.tracing import untraced
from scalekv_core.contracts.policy import Policy
from scalekv_core.errors import SessionError
from scalekv_core.memory.free import check_free_memory, free_memory
from scalekv_core.memory.meter import PeakMeter
from scalekv_core.planning.footprint import layer_bytes
from scalekv_core.planning.planner import Planned
from scalekv_core.session.report import ImageReport
from scalekv_core.shapes.geometry import CacheGeometry, format_bytes, plural
from scalekv_core.shapes.schedule import ScaleSchedule


class ImageOwner(Protocol):
    """The owner of an image's cache: a session."""

    policy: Policy
    geometry: CacheGeometry
    measure_peak: bool
    lock: threading.RLock
    cache_options: dict[str, Any]

    def planned(
        self, schedule: ScaleSchedule, *, rows: int, dtype: torch.dtype | None, device: torch.device
    ) -> Planned:
        """The plan for images of this schedule and batch on this device."""
        ...

    def finish(self, image: ImageReport) -> None:
        """Called when an image is complete."""
        ...


class ImageCache:
    """The cache that a model's attention uses; allocated when the first tensors show rows, dtype and device."""

    def __init__(self, session: ImageOwner, schedule: ScaleSchedule) -> None:
        self._session = session
        self._schedule = schedule
        self._thread = threading.current_thread()
        self._cache: KVCache | None = None
        self._planned: Planned | None = None
        self._peak: PeakMeter | None = None
        self._over = False
        self.attend = untraced(self.attend)  # type: ignore[method-assign]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        """As :meth:`KVCache.attend`, which does the work."""
        with self._session.lock:  # another thread may begin an image, which ends this one
            self._refuse_strangers()
            cache = self._cache or self._start(q, k)
            if self._peak is None:
                return cache.attend(layer, q, k, v, softmax_scale=softmax_scale, store=store)
            with self._peak:
                return cache.attend(layer, q, k, v, softmax_scale=softmax_scale, store=store)

    def _refuse_strangers(self) -> None:
        policy, here = self._session.policy.name, threading.current_thread()
        if here is not self._thread:
            raise SessionError(
                f"an image under policy {policy!r} was begun in thread {self._thread.name!r} and goes on in {here.name!r}; "
                "generate with one model in one thread at a time, or load the model once for each thread"
            )
        if self._over:
            raise SessionError(
                f"this image under policy {policy!r} is over: it was closed, another image was begun (perhaps in another "
                "thread), or the block was left"
            )

    def close(self) -> None:
        """Ends the image: the report keeps the figures, and the memory is freed."""
        if self._cache is not None and self._planned is not None and self._cache.complete:
            self._session.finish(
                ImageReport(
                    planned=self._planned,
                    resident=tuple(self._cache.resident),
                    peak=None if self._peak is None else self._peak.peak,
                    dropped=self._cache.dropped,
                )
            )
        self.discard()

    def discard(self) -> None:
        self._over = True
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def _start(self, q: Tensor, k: Tensor) -> KVCache:
        session = self._session
        geometry = session.geometry
        if k.shape[1:2] + k.shape[3:] != (geometry.heads, geometry.head_dim):
            raise SessionError(
                f"the adapter reported {geometry.heads} heads of width {geometry.head_dim}; "
                f"attention came with keys of (rows, heads, tokens, width) = {tuple(k.shape)}"
            )
        if q.shape[1] != geometry.query_heads:
            raise SessionError(
                f"the adapter reported {geometry.query_heads} query heads; attention came with {q.shape[1]}"
            )
        self._planned = session.planned(self._schedule, rows=k.shape[0], dtype=k.dtype, device=k.device)
        _check_fits(self._planned, k.device)
        self._cache = KVCache(self._planned.plan, session.policy, **session.cache_options)
        if session.measure_peak:
            self._peak = PeakMeter(k.device)
        return self._cache


def _check_fits(planned: Planned, device: torch.device) -> None:
    """Raises InputError if the cache is larger than the free memory, before the first map is kept."""
    cache, scratch = max(_resident_on(device, planned)), planned.footprint.scratch
    check_free_memory(
        cache + scratch,
        free_memory(device),
        what=f"the cache of policy {planned.policy.name!r} at {planned.budget} on {device}",
        parts=f"{format_bytes(cache)} and {format_bytes(scratch)} of scratch for {plural(planned.geometry.rows, 'row')}",
        suggestion=lambda: "generate fewer images at once, or give a smaller budget (see scalekv plan)",
    )


def _resident_on(device: torch.device, planned: Planned) -> Sequence[int]:
    """Bytes on the device after each scale; the plan's bytes, unless codes are stored in the host's memory."""
    if device.type == "cpu" or not planned.policy.codec.leaves_device:
        return planned.footprint.planned
    resident: list[int] = (
        layer_bytes(planned.plan, planned.policy, planned.geometry, on_device=True).sum(axis=1).tolist()
    )
    return resident
