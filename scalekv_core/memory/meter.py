"""Measured peak memory: the allocator's figure on CUDA, live storages on a CPU."""

from __future__ import annotations

import contextlib
import functools
import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of storages made while it is active, each once and for as long as it lives.

    A view costs nothing, but keeps its whole storage alive. What a kernel allocates and frees inside itself is not counted.

    >>> with StorageTracker() as tracker:
    ...     x = torch.zeros(1000)
    ...     y = x[:10]
    ...     del x
    >>> tracker.live
    4000
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        _import_what_torch_imports_late()
        self.live = 0
        self.peak = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {id(x.untyped_storage()) for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in known:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen[key] = weakref.ref(storage, self._freed(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int) -> Callable[[Any], None]:
        def free(_: Any) -> None:
            self._seen.pop(key, None)
            self.live -= size

        return free


class _PassOn(TorchDispatchMode):
    """A dispatch mode that passes every operation on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@functools.cache
def _import_what_torch_imports_late() -> None:
    """Runs one operation under a dispatch mode. At the first one PyTorch imports its compiler, and what that import leaves
    behind refers to the frames of its callers: their tensors would live until Python's next garbage collection."""
    with _PassOn():  # type: ignore[no-untyped-call]
        torch.empty(0)
    gc.collect()


class PeakMeter:
    """Peak bytes inside the blocks that it is entered for: the cache, its scratch and its eviction together.

    On a CPU it sees only storages made inside its blocks. On CUDA it is the allocator's peak above what was allocated
    when the meter was made.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._tracker = StorageTracker()
        self._base = torch.cuda.memory_allocated(device) if self._cuda else 0
        self._peak = 0

    @property
    def peak(self) -> int:
        """The peak in bytes."""
        return self._peak if self._cuda else self._tracker.peak

    def __enter__(self) -> PeakMeter:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        else:
            self._tracker.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        if self._cuda:
            self._peak = max(self._peak, torch.cuda.max_memory_allocated(self._cuda) - self._base)
        else:
            self._tracker.__exit__(*error)  # type: ignore[no-untyped-call]


class ProcessPeak:
    """The peak memory of this process on a device while the block runs, whatever uses it.

    On CUDA it is the allocator's figure, on a CPU the resident memory that Linux reports.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None
        """The peak in bytes, set when the block ends; None where the system does not report it."""

    def __enter__(self) -> ProcessPeak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # resets the peak
        return self

    def __exit__(self, *error: Any) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
            return
        with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
            self.bytes = int(dict(line.split(":", 1) for line in file)["VmHWM"].split()[0]) * 1024
