"""How a model meets the cache: the adapter that attaches, and the two protocols between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule


class AttentionCache(Protocol):
    """What a model's attention calls during one image (or batch)."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        """(B, g H, n, D) the attention of the current map over the history that it reads and itself; remembers k and v.

        Args:
            layer: which one, from 0.
            q: (B, g H, n, D); g consecutive query heads share a key/value head, mostly one.
            k, v: (B, H, n, D).
            softmax_scale: factor on q.k.
            store: False where the map is passed once more: then nothing is remembered.
        """
        ...

    def close(self) -> None:
        """Forget everything; called when the image is done, or has failed."""
        ...


class CacheSource(Protocol):
    """What an adapter is given to attach: it makes a cache for every image."""

    def new_cache(self, schedule: ScaleSchedule | Sequence[tuple[int, int, int]]) -> AttentionCache:
        """A cache for one image (or batch) of this schedule."""
        ...


class ModelAdapter(ABC):
    """Connects one family of models: finds its shape, and puts a cache in place of its own."""

    schedule_varies: ClassVar[bool] = False
    """True where the caller of the model chooses the schedule of each image, so that no plan can be made before."""

    @abstractmethod
    def matches(self, model: torch.nn.Module) -> bool:
        """Whether this is a model of the family, judged by its structure and never by importing its code."""

    @abstractmethod
    def geometry(self, model: torch.nn.Module) -> CacheGeometry:
        """The shape of the model's cache: its own schedule, one row."""

    @abstractmethod
    def attach(self, model: torch.nn.Module, source: CacheSource) -> Callable[[], None]:
        """Puts the source's caches into this *instance*; returns what restores it exactly.

        Raises:
            SessionError: the instance cannot be attached to.
        """
