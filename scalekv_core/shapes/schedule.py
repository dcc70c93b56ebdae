"""The schedule: the maps of an image. Everything that depends on scales asks it; nothing assumes a square."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import accumulate
from operator import index
from typing import SupportsIndex

import numpy as np
from attrs import field, frozen

from scalekv_core.errors import InputError

Map = tuple[int, int, int]


def _as_maps(maps: Iterable[Iterable[SupportsIndex]]) -> tuple[Map, ...]:
    try:
        return tuple(_as_map(tuple(map(index, sizes))) for sizes in maps)
    except TypeError as error:
        raise InputError(f"a schedule is a list of maps (h, w) or (t, h, w) of whole numbers; got {maps!r}") from error


def _as_map(sizes: tuple[int, ...]) -> Map:
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise InputError(f"a map of a schedule is (h, w) or (t, h, w) with sizes of at least 1; got {sizes}")
    t, h, w = sizes if len(sizes) == 3 else (1, *sizes)
    return t, h, w


@frozen
class ScaleSchedule:
    """The maps of one image in order; scale k (0-based) predicts map k as a whole.

    Attributes:
        maps: one (t, h, w) per scale; (h, w) is accepted and means t = 1.

    Raises:
        InputError: no map, or a size below 1.

    >>> schedule = ScaleSchedule([(1, 1), (2, 3)])
    >>> schedule.tokens, schedule.history, schedule.total
    ((1, 6), (0, 1), 7)
    """

    maps: tuple[Map, ...] = field(converter=_as_maps)

    def __attrs_post_init__(self) -> None:
        if not self.maps:
            raise InputError("a schedule needs at least one map; got none")

    @classmethod
    def square(cls, *sides: int) -> ScaleSchedule:
        """The schedule of square maps with these sides.

        >>> ScaleSchedule.square(1, 2, 4).total
        21
        """
        return cls([(1, side, side) for side in sides])

    def __len__(self) -> int:
        return len(self.maps)

    def __iter__(self) -> Iterator[Map]:
        return iter(self.maps)

    def __str__(self) -> str:
        return " ".join("x".join(map(str, m if m[0] > 1 else m[1:])) for m in self.maps)

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each map, n_k."""
        return tuple(t * h * w for t, h, w in self.maps)

    @cached_property
    def history(self) -> tuple[int, ...]:
        """Tokens of all earlier maps, N_k = n_0 + ... + n_(k-1); also the position at which map k starts."""
        return (0, *accumulate(self.tokens[:-1]))

    @cached_property
    def seen(self) -> tuple[int, ...]:
        """Tokens of all maps up to and including k, N_(k+1): the most that can be held after scale k."""
        return tuple(accumulate(self.tokens))

    @property
    def total(self) -> int:
        """Tokens of all maps."""
        return self.seen[-1]

    @property
    def last_history(self) -> int:
        """Tokens that enter the last scale, N_K: the papers' 100 %."""
        return self.history[-1]

    def keepable(self) -> tuple[int, ...]:
        """The most tokens that are worth holding after each scale: all seen so far, none after the last."""
        return (*self.seen[:-1], 0)

    def scale_of(self, position: int) -> int:
        """The scale that the token at this position belongs to.

        >>> ScaleSchedule.square(1, 2).scale_of(4)
        1
        """
        if not 0 <= position < self.total:
            raise InputError(f"position {position} is outside of the schedule's {self.total} tokens")
        return int(np.searchsorted(np.asarray(self.seen), position, side="right"))
