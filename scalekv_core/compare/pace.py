"""Estimates the time that is left of a study from its finished cells; without any there is no estimate.

All settings of a model take turns, so that the mean over its finished cells is that of those to come.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime

from attrs import frozen

from scalekv_core.compare.store import UNMODIFIED, Store
from scalekv_core.compare.tasks import Task


@frozen(kw_only=True)
class Expected:
    """An estimate of the time that tasks will take.

    Attributes:
        seconds: of the models whose pace is known.
        unknown: models of which too little is finished to tell.
    """

    seconds: float
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The estimate as text for people.

        >>> print(Expected(seconds=4000.0, unknown=("var-tiny",)))
        1 h 07 min, and that of var-tiny: known after its first cells
        >>> print(Expected(seconds=0.0, unknown=("var-tiny",)))
        known after the first cells
        """
        if not self.unknown:
            return duration(self.seconds)
        if not self.seconds:
            return "known after the first cells"
        return f"{duration(self.seconds)}, and that of {', '.join(self.unknown)}: known after its first cells"


def duration(seconds: float) -> str:
    """A number of seconds as text for people.

    >>> duration(42.4), duration(600), duration(4000), duration(200_000)
    ('42 s', '10 min', '1 h 07 min', '55 h 33 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def paces(store: Store) -> dict[str, float]:
    """{model: seconds per cell}, from the times at which its cells were finished.

    Each process counts from its first finished task to its last, so that neither loading a model nor the time between two
    sessions is in it; with several workers it is the pace of all together.
    """
    spans: dict[str, float] = {}
    cells: dict[str, int] = {}
    for model, first, last, number, at_first in store.rows(_SPANS, (UNMODIFIED,)):
        spans[model] = spans.get(model, 0.0) + (_time(last) - _time(first))
        cells[model] = cells.get(model, 0) + number - at_first
    return {model: spans[model] / cells[model] for model in spans if spans[model] and cells[model]}


_SPANS = """
WITH own AS (SELECT s.model AS model, c.worker AS worker, c.finished AS finished FROM cell c JOIN setting s ON s.id = c.setting
    WHERE s.key != ?),
ends AS (SELECT model, worker, MIN(finished) AS first, MAX(finished) AS last, COUNT(*) AS number FROM own GROUP BY model, worker)
SELECT e.model, e.first, e.last, e.number, (SELECT COUNT(*) FROM own o
    WHERE o.model = e.model AND o.worker = e.worker AND o.finished = e.first) FROM ends e WHERE e.worker != ''
"""


def _time(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def expected(cells: Mapping[str, int], known: Mapping[str, float]) -> Expected:
    """How long these cells will take.

    Args:
        cells: {model: how many}.
        known: as :func:`paces` finds it.
    """
    left = {model: number for model, number in cells.items() if number}
    return Expected(
        seconds=sum(number * known[model] for model, number in left.items() if model in known),
        unknown=tuple(model for model in left if model not in known),
    )


class Watch:
    """The estimate for a running study, from the cells of this run, or of earlier runs until it has some.

    Args:
        cells: {model: how many are missing}.
        known: as :func:`paces` finds it.
    """

    def __init__(self, cells: Mapping[str, int], known: Mapping[str, float]) -> None:
        self._left = dict(cells)
        self._known = dict(known)
        self._first: dict[str, float] = {}
        self._cells: dict[str, int] = {}

    def note(self, task: Task) -> None:
        """Records that a task is finished; the first task of a model starts its clock."""
        model, now = task.setting.model, time.monotonic()
        self._left[model] -= len(task.images)
        if model in self._first:
            self._cells[model] = self._cells.get(model, 0) + len(task.images)
            self._known[model] = (now - self._first[model]) / self._cells[model]
        else:
            self._first[model] = now

    def expected(self) -> Expected:
        """The estimate for the remaining cells."""
        return expected(self._left, self._known)
