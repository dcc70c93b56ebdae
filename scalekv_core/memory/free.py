"""How much memory is free, and the refusal of batches that need more."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from scalekv_core.errors import InputError
from scalekv_core.shapes.geometry import format_bytes


def available_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":") for line in file)
    except OSError:
        return None
    return int(lines["MemAvailable"].split()[0]) * 1024


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device, including those that torch's allocator has reserved and does not use."""
    available = available_memory(device)
    if available is None or device.type != "cuda":
        return available
    return available + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def memory_for_process(device: torch.device) -> int | None:
    """Bytes that are free on a device or already used by this process; None if unknown."""
    available = available_memory(device)
    if available is None:
        return None
    return available + (torch.cuda.memory_reserved(device) if device.type == "cuda" else resident_memory())


def resident_memory() -> int:
    """Bytes of main memory that this process uses; 0 if unknown."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def check_free_memory(needed: int, free: int | None, *, what: str, parts: str, suggestion: Callable[[], str]) -> None:
    """Refuses what needs more memory than is free; accepts if the free memory is unknown.

    Args:
        needed, free: bytes.
        what: needs them.
        parts: of the bytes, as text.
        suggestion: says what to do; called only for a refusal, since it may take seconds.

    Raises:
        InputError: it does not fit.

    >>> check_free_memory(2**20 + 1, 2**20, what="policy 'full'", parts="the cache", suggestion=lambda: "use another")
    Traceback (most recent call last):
    scalekv_core.errors.InputError: policy 'full' needs 1,048,577 B (the cache), and 1,048,576 B are free; use another
    """
    if free is not None and needed > free:
        wanted, there = told_apart(needed, free)
        raise InputError(f"{what} needs {wanted} ({parts}), and {there} are free; {suggestion()}")


def told_apart(one: int, other: int) -> tuple[str, str]:
    """Two byte counts as text; exact where rounding would make them equal.

    >>> told_apart(3 * 2**30, 2**30), told_apart(2**30 + 1, 2**30)
    (('3.0 GiB', '1.0 GiB'), ('1,073,741,825 B', '1,073,741,824 B'))
    """
    texts = format_bytes(one), format_bytes(other)
    return texts if one == other or texts[0] != texts[1] else (f"{one:,} B", f"{other:,} B")
