"""What becomes of a head group's tokens at each scale, where maps are dropped after their last reader or text is always kept.

All of it follows from the schedule and the plan, so that nothing is asked of the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

from attrs import frozen

from scalekv_core.shapes.schedule import ScaleSchedule

Run = tuple[int, int]


@frozen
class Step:
    """One scale. Tokens are counted from 0 through the held history and the current map behind it.

    Attributes:
        history, current: tokens held before, and of the current map.
        visible: runs (start, stop) of the tokens that the current map attends to, itself included.
        text: tokens at the front that are text and remain.
        offered: runs of the other tokens that later maps read: what a policy sees.
        quota: (start, stop, keep) among the offered tokens for each source scale; None leaves that to the selector.
        stored: whether a later map reads the current one. If not, no policy is asked.
        held: tokens held afterwards.
        gaps: whether tokens were evicted from what is held afterwards, so that positions have to be stored.
        counted: whether evicted tokens may have been folded into what is held afterwards: then a merger that folds has counts.
        maps: those that are held before and the current one; all of each, unless there were gaps before.
    """

    history: int
    current: int
    visible: tuple[Run, ...]
    text: int
    offered: tuple[Run, ...]
    quota: tuple[tuple[int, int, int], ...] | None
    stored: bool
    held: int
    gaps: bool
    counted: bool
    maps: tuple[int, ...]

    @property
    def remaining(self) -> tuple[Run, ...]:
        """Runs of the tokens that a later map reads."""
        return ((0, self.text), *self.offered) if self.text else self.offered

    @property
    def remains(self) -> int:
        """How many tokens a later map reads."""
        return sum(stop - start for start, stop in self.remaining)

    @property
    def keeps_history(self) -> bool:
        """Whether the history stays as it is, and the current map is not stored."""
        return not self.stored and self.held == self.history

    @property
    def begins_anew(self) -> bool:
        """Whether nothing of the history is held any longer, and the current map is."""
        return self.stored and not self.text and bool(self.offered) and self.offered[0][0] >= self.history

    @property
    def sees_all(self) -> bool:
        """Whether the current map attends to all that is held."""
        return len(self.visible) == 1 and self.visible[0][0] == 0


@frozen
class _Part:
    """Tokens of maps that are read by the same later ones."""

    maps: tuple[int, ...]
    count: int


def steps_of(
    schedule: ScaleSchedule, held: tuple[int, ...], quota: tuple[tuple[int, ...], ...] | None
) -> tuple[Step, ...] | None:
    """One step for each scale; None for a plain schedule, which needs none.

    Args:
        schedule: the maps.
        held: tokens that the group holds after each scale.
        quota: the same of each source scale, or None.
    """
    return None if schedule.is_plain else _steps_of(schedule, held, quota)


@lru_cache(maxsize=1024)
def _steps_of(
    schedule: ScaleSchedule, held: tuple[int, ...], quota: tuple[tuple[int, ...], ...] | None
) -> tuple[Step, ...]:
    steps: list[Step] = []
    before: list[_Part] = []
    gaps = counted = False
    for k, new in enumerate(schedule.tokens):
        parts = [*before, _Part((k,), new)]
        alive, read = set(schedule.alive[k]), {*schedule.read_by(k), k}
        remain = [part.maps[0] in alive for part in parts]
        text = parts[0].count if schedule.prefix and parts[0].maps == (0,) and remain[0] else 0
        offered = [there and not (i == 0 and text) for i, there in enumerate(remain)]
        kept = _kept(parts, remain, text, held[k], None if quota is None else quota[k])
        total = sum(part.count for part, there in zip(parts, remain, strict=True) if there)
        gaps = held[k] > 0 and (held[k] < total or (gaps and any(offered[:-1])))
        counted = gaps or (counted and held[k] > 0 and any(remain[:-1]))
        steps.append(
            Step(
                history=sum(part.count for part in before),
                current=new,
                visible=_runs(parts, [part.maps[0] in read for part in parts]),
                text=text,
                offered=_runs(parts, offered),
                quota=None if quota is None else _quota(parts, offered, quota[k]),
                stored=remain[-1],
                held=held[k],
                gaps=gaps,
                counted=counted,
                maps=tuple(m for part in parts for m in part.maps),
            )
        )
        before = kept
    return tuple(steps)


def _kept(
    parts: Sequence[_Part], remain: Sequence[bool], text: int, held: int, quota: tuple[int, ...] | None
) -> list[_Part]:
    """What is held afterwards: one part for each source scale where there are quotas, else text and one for all others."""
    there = [part for part, remains in zip(parts, remain, strict=True) if remains]
    if quota is not None:
        return [_Part(part.maps, quota[part.maps[0]]) for part in there if quota[part.maps[0]]]
    others = tuple(m for part in there[bool(text) :] for m in part.maps)
    kept = [_Part((0,), text)] if text else []
    return [*kept, _Part(others, held - text)] if held > text else kept


def joined(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Ascending runs with neighbours as one.

    >>> joined([(0, 2), (2, 5), (6, 7)])
    ((0, 5), (6, 7))
    """
    found: list[Run] = []
    for start, stop in runs:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return tuple(found)


def _runs(parts: Sequence[_Part], wanted: Sequence[bool]) -> tuple[Run, ...]:
    """Where the wanted parts lie."""
    edges = pairwise(accumulate((part.count for part in parts), initial=0))
    return joined(run for run, there in zip(edges, wanted, strict=True) if there)


def _quota(parts: Sequence[_Part], offered: Sequence[bool], quota: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    found, start = [], 0
    for part, there in zip(parts, offered, strict=True):
        if there:
            found.append((start, start + part.count, quota[part.maps[0]]))
            start += part.count
    return tuple(found)
