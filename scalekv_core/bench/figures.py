"""The figures of a measurement, as values, and targets for them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from scalekv_core.bench.contenders import Contender
from scalekv_core.bench.peak import MemoryFigures
from scalekv_core.bench.settings import BenchSettings

SELECTION_GOAL = 0.01
PEAK_GOAL = 1.05
WHOLE_GOAL, CUT_GOAL, RELEASED_GOAL = 1 / 1.25, 0.02, 1 / 1.2
"""Of a whole transformer: the time to the unmodified one's, the share of all that eviction takes, the time to the released
code's."""


@frozen
class Spread:
    """A figure that was measured several times.

    >>> Spread.of([3.0, 1.0, 8.0])
    Spread(median=3.0, least=1.0, most=8.0, times=3)
    """

    median: float
    least: float
    most: float
    times: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of these values; None if there is none."""
        return cls(statistics.median(values), min(values), max(values), len(values)) if values else None

    def as_dict(self) -> dict[str, float]:
        return {"median": self.median, "least": self.least, "most": self.most, "times": self.times}


@frozen(eq=False, kw_only=True)
class ContenderFigures:
    """What was measured of one contender; less than was asked for if the measurement was cut short.

    Attributes:
        contender: of whom.
        by_scale: of every image that was timed, [K] seconds of all layers.
        stages: of every image that was clocked, {stage: seconds} of all layers; ``all`` is the time of the calls.
        memory: bytes, if they were measured.
        ratios: image by image, seconds over those of the unmodified cache in the same round.
    """

    contender: Contender
    by_scale: tuple[NDArray[np.float64], ...] = ()
    stages: tuple[Mapping[str, float], ...] = ()
    memory: MemoryFigures | None = None
    ratios: tuple[float, ...] = ()

    @property
    def seconds(self) -> Spread | None:
        """Of an image."""
        return Spread.of([float(image.sum()) for image in self.by_scale])

    @property
    def scale_seconds(self) -> list[float]:
        """[K] medians; empty if no image was timed."""
        return np.median(self.by_scale, axis=0).tolist() if self.by_scale else []

    @property
    def ratio(self) -> Spread | None:
        """To the unmodified cache."""
        return Spread.of(self.ratios)

    def share(self, *stages: str) -> Spread | None:
        """Of the time of an image, what these stages take together."""
        return Spread.of([sum(image[stage] for stage in stages) / image["all"] for image in self.stages])

    @property
    def rest(self) -> Spread | None:
        """Of the time of an image, what no stage accounts for."""
        return Spread.of([2 - sum(image.values()) / image["all"] for image in self.stages])

    @property
    def selection(self) -> Spread | None:
        """The share of observing and selecting."""
        return self.share("observe", "select")


@frozen(kw_only=True)
class Goal:
    """What a contender is hoped to reach.

    Attributes:
        who: the contender.
        what: in words, with the limit.
        value: what it reached.
        limit: what it may be at most.
    """

    who: str
    what: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        return self.value <= self.limit


@frozen(eq=False, kw_only=True)
class BenchResult:
    """A measurement, whole or as far as it came.

    Attributes:
        settings: what was measured.
        figures: contender by contender; the first one is the unmodified cache.
        notes: {name: text} whatever else has to be equal, or known, to compare: the profile, the budget.
        complete: whether everything that was asked for was measured.
        load: processes that ran or waited on the machine at the start and (if complete) at the end, over a minute each;
            empty if unknown.
    """

    settings: BenchSettings
    figures: tuple[ContenderFigures, ...]
    notes: Mapping[str, str] = field(factory=dict)
    complete: bool = True
    load: tuple[float, ...] = ()

    def goals(self) -> list[Goal]:
        """The targets of the contenders that have one and were measured."""
        goals = [goal for figures in self.figures for goal in _goals(figures)]
        if self.settings.whole is not None:
            goals += [goal for figures in self.figures for goal in self._whole_goals(figures)]
        return goals

    def _whole_goals(self, figures: ContenderFigures) -> list[Goal]:
        """Those of a policy that drops tokens and looks at few queries, in a whole transformer."""
        planned, name = figures.contender.planned, figures.contender.name
        if figures.contender.planned_bytes is None or planned is None or not planned.plan.drops:
            return []
        if planned.policy.selector.statistics:
            return []
        cut = figures.share("observe", "select", "merge", "store")
        released = [one for one in self.figures if one.contender.projects_twice]
        pairs = zip(figures.ratios, released[0].ratios if released else (), strict=False)
        to_released = Spread.of([mine / theirs for mine, theirs in pairs])
        found = [
            ("time, x unmodified", figures.ratio, WHOLE_GOAL),
            ("selection, gather and codec", cut, CUT_GOAL),
            ("time, x released", to_released, RELEASED_GOAL),
        ]
        return [Goal(who=name, what=what, value=x.median, limit=limit) for what, x, limit in found if x is not None]


def _goals(figures: ContenderFigures) -> list[Goal]:
    planned, memory = figures.contender.planned, figures.memory
    if planned is None or figures.contender.planned_bytes is None:
        return []
    name, goals = figures.contender.name, []
    if not planned.plan.drops and figures.ratio:
        goals.append(Goal(who=name, what="not slower than unmodified", value=figures.ratio.median, limit=1.0))
    if planned.plan.drops and figures.selection and not planned.policy.selector.statistics:
        goals.append(Goal(who=name, what="selection", value=figures.selection.median, limit=SELECTION_GOAL))
    if memory is not None and memory.over_plan is not None:
        goals.append(Goal(who=name, what="peak / (planned + scratch)", value=memory.over_plan, limit=PEAK_GOAL))
    return goals


def as_record(result: BenchResult, **more: Any) -> dict[str, Any]:
    """The measurement as plain values."""
    return {
        "scalekv_bench": 1,
        **more,
        "settings": {**result.settings.as_dict(), **result.notes},
        "complete": result.complete,
        "load_average": list(result.load),
        "contenders": {one.contender.name: _record_of(one) for one in result.figures},
    }


def _record_of(figures: ContenderFigures) -> dict[str, Any]:
    contender, memory = figures.contender, figures.memory
    spreads = {"seconds": figures.seconds, "ratio": figures.ratio, "selection": figures.selection}
    return {
        "budget": None if contender.planned is None else str(contender.planned.budget),
        "parts": _parts(contender),
        "layers_run": [{"layer": run.layer, "stands_for": list(run.stands_for)} for run in contender.layers],
        **{name: None if spread is None else spread.as_dict() for name, spread in spreads.items()},
        "seconds_by_scale": figures.scale_seconds,
        "images": [float(image.sum()) for image in figures.by_scale],
        "stages": [dict(image) for image in figures.stages],
        "bytes": None if memory is None else _bytes(memory),
    }


def _parts(contender: Contender) -> dict[str, str]:
    """{part: strategy with its options, as text} of the policy."""
    parts = {} if contender.planned is None else contender.planned.policy.parts
    return {name: repr(part) for name, part in parts.items()}


def _bytes(memory: MemoryFigures) -> dict[str, Any]:
    names = ("planned", "resident", "scratch", "peak", "peak_scale", "peak_layer", "process", "over_plan")
    return {name: getattr(memory, name) for name in names}
