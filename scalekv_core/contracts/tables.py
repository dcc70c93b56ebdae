"""Tensors that follow from schedule, sizes and device alone: made once, shared by layers, scales and images."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor


class Tables:
    """Remembers what pure functions of sizes have returned, for each device.

    A session has one for all its images. Tensors from it are read-only, since everybody gets the same ones.

    >>> tables = Tables()
    >>> first, again = (tables.get(torch.arange, 3, device=torch.device("cpu")) for _ in range(2))
    >>> first is again
    True
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Hashable, ...], Tensor] = {}

    def get(self, make: Callable[..., Tensor], *args: Hashable, device: torch.device) -> Tensor:
        """``make(*args, device=device)``, called once for the same arguments.

        Args:
            make: a function whose result depends on its arguments alone.
            args: hashable.
            device: where the tensor is wanted.
        """
        key = (make, device, *args)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = make(*args, device=device)
        return made

    def remember(self, key: tuple[Hashable, ...], make: Callable[[], Tensor]) -> Tensor:
        """``make()``, called once for the same key: for what is not made by a function of hashable arguments."""
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = make()
        return made

    def clear(self) -> None:
        """Forgets all tensors."""
        self._made.clear()


def one(*, device: torch.device) -> Tensor:
    """(1,) float32 to be expanded: the count of a token that stands for itself."""
    return torch.ones(1, dtype=torch.float32, device=device)


def zero(*, device: torch.device) -> Tensor:
    """(1,) float32 to be expanded: a statistic before anything was observed."""
    return torch.zeros(1, dtype=torch.float32, device=device)
