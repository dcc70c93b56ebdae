"""Peak memory that was really there: the allocator's figure on CUDA, live storages on CPU."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of storages made while it is active, each once and for as long as it lives.

    A view costs nothing, but keeps its whole storage alive. What a kernel allocates and frees inside itself is not seen.

    >>> with StorageTracker() as tracker:
    ...     x = torch.zeros(1000)
    ...     y = x[:10]
    ...     del x
    >>> tracker.live
    4000
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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


class PeakMeter:
    """Peak bytes over the blocks that it is entered for: what the cache, its scratch and its cut take at once.

    On CPU it sees only storages made inside of its blocks; on CUDA it is the allocator's peak over what was allocated
    when the meter was made.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._tracker = StorageTracker()
        self._base = torch.cuda.memory_allocated(device) if self._cuda else 0
        self._peak = 0

    @property
    def peak(self) -> int:
        """Bytes."""
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
    """The most memory that this process has on a device while the block runs, whatever it is for.

    On CUDA the allocator's figure; on a CPU the resident memory that Linux counts.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None
        """After the block; None where the system does not tell."""

    def __enter__(self) -> ProcessPeak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # forgets the highest figure so far
        return self

    def __exit__(self, *error: Any) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
            return
        with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
            self.bytes = int(dict(line.split(":", 1) for line in file)["VmHWM"].split()[0]) * 1024
