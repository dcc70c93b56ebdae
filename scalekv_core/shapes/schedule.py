"""The schedule: the maps of an image. Everything that depends on scales asks it; nothing assumes a square."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from operator import index
from typing import SupportsIndex

import numpy as np
from attrs import evolve, field, frozen

from scalekv_core.errors import InputError, shortened
from scalekv_core.shapes.values import flag

Map = tuple[int, int, int]
Reads = tuple[tuple[int, ...], ...]


def _as_maps(maps: Iterable[Iterable[SupportsIndex]]) -> tuple[Map, ...]:
    try:
        return tuple(_as_map(tuple(map(_index, sizes))) for sizes in maps)
    except TypeError as error:
        given = shortened(maps)
        raise InputError(f"a schedule is a list of maps (h, w) or (t, h, w) of whole numbers; got {given}") from error


def _index(number: SupportsIndex) -> int:
    """A whole number of Python's, numpy's or torch's; TypeError for any other, and for True and False."""
    if isinstance(number, bool):
        raise TypeError(number)
    return index(number)


def _as_map(sizes: tuple[int, ...]) -> Map:
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise InputError(f"a map of a schedule is (h, w) or (t, h, w) with sizes of at least 1; got {sizes}")
    t, h, w = sizes if len(sizes) == 3 else (1, *sizes)
    return t, h, w


def _as_reads(reads: Sequence[Iterable[SupportsIndex]] | None) -> Reads | None:
    """Each list ascending."""
    if reads is None:
        return None
    try:
        lists = tuple(tuple(sorted({_index(m) for m in earlier})) for earlier in reads)
    except TypeError as error:
        raise InputError(f"reads lists for each map the earlier maps by number; got {shortened(reads)}") from error
    for scale, earlier in enumerate(lists):
        if earlier and not 0 <= earlier[0] <= earlier[-1] < scale:
            raise InputError(f"map {scale} reads earlier maps, 0 to {scale - 1}; got {list(earlier)}")
    return lists


@frozen
class ScaleSchedule:
    """The maps of one image in order; scale k (0-based) predicts map k as a whole.

    Attributes:
        maps: one (t, h, w) per scale; (h, w) is accepted and means t = 1.
        reads: for every map the earlier maps that it attends to, beside itself; None: all of them. A map is dropped
            after the last one that reads it, under every policy.
        prefix: whether map 0 is text, tokens without a grid that come before the image. They are always kept, and no policy
            sees them.

    Raises:
        InputError: no map, a size below 1, or a map that reads one that comes later.

    >>> schedule = ScaleSchedule([(1, 1), (2, 3)])
    >>> schedule.tokens, schedule.history, schedule.total
    ((1, 6), (0, 1), 7)
    >>> ScaleSchedule([(1, 5), (2, 2), (2, 2)], reads=[(), (0,), (0,)], prefix=True).keepable()
    (5, 5, 0)
    """

    maps: tuple[Map, ...] = field(converter=_as_maps)
    reads: Reads | None = field(default=None, kw_only=True, converter=_as_reads)
    prefix: bool = field(default=False, kw_only=True, validator=flag)

    def __attrs_post_init__(self) -> None:
        if not self.maps:
            raise InputError("a schedule needs at least one map; got none")
        if self.reads is not None and len(self.reads) != len(self.maps):
            raise InputError(f"reads has one list for each of the {len(self.maps)} maps; got {len(self.reads)}")
        if self.reads is not None and all(len(earlier) == scale for scale, earlier in enumerate(self.reads)):
            object.__setattr__(self, "reads", None)  # so that equal schedules are equal
        if self.prefix and len(self.maps) < 2:
            raise InputError("a schedule with a text prefix needs a map after it; got none")

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
        text = [f"text({self.tokens[0]})"] if self.prefix else []
        maps = self.maps[self.prefix :]
        return " ".join([*text, *("x".join(map(str, m if m[0] > 1 else m[1:])) for m in maps)])

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
        """Tokens of all maps up to and including k, N_(k+1); also the position at which map k ends."""
        return tuple(accumulate(self.tokens))

    @property
    def total(self) -> int:
        """Tokens of all maps."""
        return self.seen[-1]

    @property
    def last_history(self) -> int:
        """The papers' 100 %: tokens that enter the last scale, N_K; with ``reads`` the most that any scale leaves to read."""
        return max(self.keepable())

    def keepable(self) -> tuple[int, ...]:
        """The most tokens that are worth holding after each scale: those that a later map reads, none after the last."""
        if self.reads is None:
            return (*self.seen[:-1], 0)
        return tuple(sum(self.tokens[m] for m in maps) for maps in self.alive)

    @cached_property
    def alive(self) -> Reads:
        """For each scale the maps up to and including its own that a later one reads."""
        last = self._last_readers
        return tuple(tuple(m for m in range(k + 1) if last[m] > k) for k in range(len(self)))

    @cached_property
    def _last_readers(self) -> list[int]:
        last = list(range(len(self)))  # itself, if there is no other
        for k in range(len(self)):
            for m in self.read_by(k):
                last[m] = k
        return last

    def read_by(self, scale: int) -> Sequence[int]:
        """The earlier maps that the map of this scale attends to."""
        return range(scale) if self.reads is None else self.reads[scale]

    @cached_property
    def unmodified_held(self) -> tuple[int, ...]:
        """Tokens that a model holds at each scale if it stores every map and drops those that neither this one nor a later one
        reads: all seen so far, unless ``reads`` says otherwise."""
        before = (0, *self.keepable()[:-1])
        return tuple(map(sum, zip(before, self.tokens, strict=True)))

    @property
    def prefix_tokens(self) -> int:
        """Tokens of the text in front; 0 if there is none."""
        return self.tokens[0] if self.prefix else 0

    @cached_property
    def is_plain(self) -> bool:
        """Whether every map attends to all earlier ones, and none is text."""
        return self.reads is None and not self.prefix

    @cached_property
    def without_prefix(self) -> ScaleSchedule:
        """The maps alone, numbered from 0: what a policy sees."""
        if not self.prefix:
            return self
        reads = self.reads and [[m - 1 for m in earlier if m] for earlier in self.reads[1:]]
        return evolve(self, maps=self.maps[1:], reads=reads, prefix=False)

    @cached_property
    def tells_maps_apart(self) -> bool:
        """Whether maps that are held together are read by different later maps, so that each needs a share of its own."""
        readers: list[set[int]] = [{k for k in range(len(self)) if m in self.read_by(k)} for m in range(len(self))]
        return not all(
            len({frozenset(r for r in readers[m] if r > k) for m in maps if m or not self.prefix}) <= 1
            for k, maps in enumerate(self.alive)
        )

    def scale_of(self, position: int) -> int:
        """The scale that the token at this position belongs to.

        >>> ScaleSchedule.square(1, 2).scale_of(4)
        1
        """
        if not 0 <= position < self.total:
            raise InputError(f"position {position} is outside of the schedule's {self.total} tokens")
        return int(np.searchsorted(np.asarray(self.seen), position, side="right"))
