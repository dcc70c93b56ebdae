"""Measures all contenders in turn in one run, so that other work on the machine disturbs all of them."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from attrs import define, field
from numpy.typing import NDArray

from scalekv_core.bench.contenders import Contender
from scalekv_core.bench.figures import BenchResult, ContenderFigures
from scalekv_core.bench.inputs import AttentionAlone, make_inputs
from scalekv_core.bench.peak import MemoryFigures, measure_memory
from scalekv_core.bench.settings import BenchSettings
from scalekv_core.bench.timing import CLOCKS, Subject, time_image, time_stages
from scalekv_core.bench.whole import WholeTransformer
from scalekv_core.errors import InputError


@define(eq=False)
class _Tally:
    contender: Contender
    by_scale: list[NDArray[np.float64]] = field(factory=list)
    stages: list[Mapping[str, float]] = field(factory=list)
    memory: MemoryFigures | None = None


class Bench:
    """A measurement that can return partial results.

    Args:
        settings: what and how often.
        contenders: the unmodified cache, and those that are compared with it.
        notes: {name: text} what else has to be equal in records that are compared.

    Raises:
        InputError: two contenders of one name, or of another geometry.
    """

    def __init__(
        self, settings: BenchSettings, contenders: Sequence[Contender], *, notes: Mapping[str, str] | None = None
    ) -> None:
        names = [contender.name for contender in contenders]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"contender {twice[0]!r} is there twice; compare each one once")
        if strange := [one.name for one in contenders if one.geometry != settings.geometry]:
            raise InputError(f"contender {strange[0]!r} was planned for another geometry than the one that is measured")
        self.settings = settings
        self._notes = dict(notes or {})
        self._tallies = [_Tally(contender) for contender in contenders]
        self._load: list[float] = []
        self._complete = False

    @property
    def images(self) -> int:
        """How many images a whole run generates."""
        return len(self._tallies) * (1 + self.settings.repeats + self.settings.clocked)

    def run(self, progress: Callable[[str], None] | None = None) -> BenchResult:
        """Measures everything: memory first, which also warms up; then time; then the shares of the stages.

        In every round each contender generates one image, and the first of a round is the last of the next.

        Args:
            progress: is told what comes next, once for every image.
        """
        tell = progress or _silent
        self._load = load_average()
        with _threads(self.settings.threads), _no_collector():
            subject = self._subject()
            for contender_round in self._rounds():
                for step, tally in contender_round:
                    tell(f"{step}: {tally.contender.name}")
                    self._measure(step, tally, subject)
        self._load += load_average()
        self._complete = True
        return self.result()

    def result(self) -> BenchResult:
        """What has been measured so far."""
        baseline = self._tallies[0].by_scale if self._tallies else []
        return BenchResult(
            settings=self.settings,
            figures=tuple(_figures(tally, baseline) for tally in self._tallies),
            notes=self._notes,
            complete=self._complete,
            load=tuple(self._load),
        )

    def _rounds(self) -> Iterator[list[tuple[str, _Tally]]]:
        steps = ["memory", *["time"] * self.settings.repeats, *["stages"] * self.settings.clocked]
        for number, step in enumerate(steps):
            first = number % max(1, len(self._tallies))
            yield [(step, tally) for tally in self._tallies[first:] + self._tallies[:first]]

    def _subject(self) -> Subject:
        if self.settings.whole is None:
            return AttentionAlone(make_inputs(self.settings))
        return WholeTransformer(self.settings.whole, self.settings.device, seed=self.settings.seed)

    def _measure(self, step: str, tally: _Tally, subject: Subject) -> None:
        device, now = self.settings.device, CLOCKS[self.settings.clock]
        if step == "memory":
            tally.memory = measure_memory(tally.contender, subject, device)
        elif step == "time":
            tally.by_scale.append(time_image(tally.contender, subject, device, now))
        else:
            tally.stages.append(time_stages(tally.contender, subject, device, now))


def _figures(tally: _Tally, baseline: Sequence[NDArray[np.float64]]) -> ContenderFigures:
    pairs = zip(tally.by_scale, baseline, strict=False)  # of the same round; a round that was cut short has no pair
    return ContenderFigures(
        contender=tally.contender,
        by_scale=tuple(tally.by_scale),
        stages=tuple(tally.stages),
        memory=tally.memory,
        ratios=tuple(float(mine.sum() / theirs.sum()) for mine, theirs in pairs if theirs.sum() > 0),
    )


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Switches Python's garbage collector off, which would interrupt what is timed."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def load_average() -> list[float]:
    """[processes that ran or waited on this machine over the last minute], or nothing where that is not known."""
    return [os.getloadavg()[0]] if hasattr(os, "getloadavg") else []


def _silent(_: str) -> None:
    return None
