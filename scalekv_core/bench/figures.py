"""The results of a measurement, as values."""

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

TOO_SHORT = "took less time than the clock can measure"


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
    """The figures of one contender; fewer than requested if the measurement was interrupted.

    Attributes:
        contender: which one.
        by_scale: of every image that was timed, [K] seconds of all layers.
        stages: of every image whose stages were timed, {stage: seconds} of all layers; ``all`` is the time of the calls.
        memory: bytes, if they were measured.
        ratios: of every image that was timed, its seconds over those of the unmodified cache in the same round; rounds in
            which the latter took less time than the clock can measure are left out.
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
        """The share of these stages in the time of an image; None if no image took as long as the clock can measure."""
        return Spread.of([sum(image[stage] for stage in stages) / image["all"] for image in self._measurable])

    @property
    def rest(self) -> Spread | None:
        """The share of an image's time that belongs to no stage."""
        return Spread.of([2 - sum(image.values()) / image["all"] for image in self._measurable])

    @property
    def _measurable(self) -> list[Mapping[str, float]]:
        return [image for image in self.stages if image["all"] > 0]

    @property
    def selection(self) -> Spread | None:
        """The share of observing and selecting."""
        return self.share("observe", "select")

    @property
    def missing(self) -> dict[str, str]:
        """{figure: why there is none}."""
        reasons = {
            "seconds": "no image was timed",
            "ratio": "there is no round in which the unmodified cache took as long as the clock can measure",
            "selection": f"every image {TOO_SHORT}" if self.stages else "the stages of no image were timed",
            "bytes": "memory was not measured",
        }
        found = {"seconds": self.seconds, "ratio": self.ratio, "selection": self.selection, "bytes": self.memory}
        return {name: why for name, why in reasons.items() if found[name] is None}


@frozen(eq=False, kw_only=True)
class BenchResult:
    """A measurement, complete or interrupted.

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
        "null": figures.missing,
    }


def _parts(contender: Contender) -> dict[str, str]:
    """{part: strategy with its options, as text} of the policy."""
    parts = {} if contender.planned is None else contender.planned.policy.parts
    return {name: repr(part) for name, part in parts.items()}


def _bytes(memory: MemoryFigures) -> dict[str, Any]:
    names = ("planned", "resident", "scratch", "peak", "peak_scale", "peak_layer", "process", "over_plan")
    return {name: getattr(memory, name) for name in names}
