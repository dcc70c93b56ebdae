"""Runs the tasks of a study on one loaded model: the unmodified images once per batch, then each setting beside them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from attrs import frozen

from scalekv_core.cache.clock import Clock
from scalekv_core.compare.question import Question, Setting
from scalekv_core.compare.store import WHOLE, Cell, Figure, as_png
from scalekv_core.errors import InputError, MissingExtra, ScaleKVError
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.models.metric import Pair, PairMetric
from scalekv_core.plugins.registry import Registry
from scalekv_core.session.session import compress

T = TypeVar("T")
FAILURES = (ScaleKVError, RuntimeError, ArithmeticError, ValueError)
"""What ends one task and not the study: a budget, a contract that is broken, memory that runs out."""


@frozen(kw_only=True)
class Task:
    """One setting on one batch of images.

    Attributes:
        setting: how the cache is held.
        batch: number of the batch.
        images: (prompt, seed) of each.
    """

    setting: Setting
    batch: int
    images: tuple[tuple[str, int], ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(prompt for prompt, _ in self.images)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(seed for _, seed in self.images)


@frozen(eq=False, kw_only=True)
class Unmodified:
    """What the unmodified model generated for a batch, and in how many seconds."""

    images: tuple[tuple[str, int], ...]
    generation: Generation
    seconds: float


class Runner:
    """Generates and measures with one model on one device.

    Args:
        model: loaded.
        question: what is asked.
        metrics: {name: metric} of those that have a figure for every image.
        registry: where policies are looked up.
    """

    def __init__(
        self, model: ImageModel, question: Question, metrics: Mapping[str, PairMetric], registry: Registry
    ) -> None:
        self._model = model
        self._sampling = question.sampling_of(model.sampling)
        self._metrics = metrics
        self._registry = registry
        self._device = next(model.module.parameters()).device
        self._unmodified: Unmodified | None = None

    def warm_up(self, task: Task) -> None:
        """Generates once outside of all clocks, unmodified and compressed: the first time pays for what is loaded lazily."""
        try:
            self._generate(task)
            with compress(
                self._model, task.setting.made(self._registry), task.setting.budget or None, registry=self._registry
            ):
                self._generate(task)
        except FAILURES:
            pass  # the task itself says so

    def run(self, task: Task) -> list[Cell]:
        """The cells of a task; whatever fails is a cell that says why, and the study goes on."""
        try:
            return self._run(task)
        except FAILURES as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            return [Cell(prompt=prompt, seed=seed, failed=reason) for prompt, seed in task.images]

    def unmodified(self, task: Task) -> Unmodified:
        """The unmodified images of a task's batch, generated once and kept until another batch is wanted."""
        if self._unmodified is None or self._unmodified.images != task.images:
            self._unmodified = None  # so that two of them are never held
            generation, seconds = self._timed(lambda: self._generate(task, keep_logits=True))
            self._unmodified = Unmodified(images=task.images, generation=generation, seconds=seconds)
        return self._unmodified

    def _run(self, task: Task) -> list[Cell]:
        baseline = self.unmodified(task)
        policy, budget = task.setting.made(self._registry), task.setting.budget or None
        with compress(self._model, policy, budget, registry=self._registry) as session:
            compressed, seconds = self._timed(lambda: self._generate(task))
        clock = Clock(self._device)
        with compress(self._model, policy, budget, registry=self._registry, clock=clock, measure_peak=True) as measured:
            forced = self._generate(task, forced=baseline.generation.tokens, keep_logits=True)
        pair = Pair(
            model=self._model.name,
            prompts=task.prompts,
            seeds=task.seeds,
            unmodified=baseline.generation,
            compressed=compressed,
            forced=forced,
        )
        figures = self._figures(pair)
        spent = clock.total()
        return [
            Cell(
                prompt=prompt,
                seed=seed,
                picture=as_png(compressed.images[i]),
                figures=figures[i],
                seconds=seconds / len(task.images),
                unmodified_seconds=baseline.seconds / len(task.images),
                resident_bytes=max(session.report().images[-1].resident),
                peak_bytes=measured.report().images[-1].peak,
                selection_share=clock.total("observe", "select", "merge") / spent if spent else None,
            )
            for i, (prompt, seed) in enumerate(task.images)
        ]

    def baseline_cells(self, task: Task) -> list[Cell]:
        """The unmodified images as cells of their own, so that a report can show them."""
        baseline = self.unmodified(task)
        seconds = baseline.seconds / len(task.images)
        return [
            Cell(prompt=prompt, seed=seed, picture=as_png(baseline.generation.images[i]), seconds=seconds)
            for i, (prompt, seed) in enumerate(task.images)
        ]

    def _figures(self, pair: Pair) -> list[list[Figure]]:
        """The figures of each image."""
        found: list[list[Figure]] = [[] for _ in pair.prompts]
        for name, metric in self._metrics.items():
            if metric.models and pair.model not in metric.models:
                continue
            try:
                whole, scales = metric.measure(pair), metric.by_scale(pair)
            except InputError as error:
                for figures in found:
                    figures.append(Figure(metric=name, scale=WHOLE, value=math.nan, note=str(error).splitlines()[0]))
                continue
            _check_shape(name, whole, len(found))
            for i, figures in enumerate(found):
                figures.append(Figure(metric=name, scale=WHOLE, value=float(whole[i])))
                by_scale = [] if scales is None else scales[i].tolist()
                figures += [Figure(metric=name, scale=k, value=value) for k, value in enumerate(by_scale)]
        return found

    def _generate(self, task: Task, **how: Any) -> Generation:
        return self._model.generate(task.prompts, seeds=task.seeds, sampling=self._sampling, **how)

    def _timed(self, work: Callable[[], T]) -> tuple[T, float]:
        self._wait()
        start = time.perf_counter()
        made = work()
        self._wait()
        return made, time.perf_counter() - start

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def pair_metrics(question: Question, registry: Registry) -> dict[str, PairMetric]:
    """{name: metric} of the question's metrics that have a figure for every image.

    Raises:
        UnknownName, MissingExtra, InputError: a metric is not there, or a package or weights that it needs.
    """
    found = {}
    for name in question.metrics:
        metric = registry.make("metric", name)
        try:
            metric.check_available()
        except MissingExtra:
            raise
        except ScaleKVError as error:
            raise InputError(f"metric {name!r} cannot be used: {error}") from error
        if isinstance(metric, PairMetric):
            found[name] = metric
    return found


def _check_shape(name: str, figures: torch.Tensor, images: int) -> None:
    if not isinstance(figures, torch.Tensor) or figures.shape != (images,):
        got = tuple(figures.shape) if isinstance(figures, torch.Tensor) else type(figures).__name__
        raise InputError(f"metric {name!r} must return one figure per image, of shape ({images},); got {got}")


def tasks_of(question: Question, settings: Sequence[Setting]) -> list[Task]:
    """Every task: batch after batch, and within one all settings in an order that changes from batch to batch (by a fixed
    seed), so that a slow hour slows all settings alike."""
    import random

    found = []
    for model in question.models:
        own = [setting for setting in settings if setting.model == model]
        for number, images in enumerate(question.batches(model)):
            shuffled = random.Random(f"{model} {number}").sample(own, len(own))
            found += [Task(setting=setting, batch=number, images=tuple(images)) for setting in shuffled]
    return found
