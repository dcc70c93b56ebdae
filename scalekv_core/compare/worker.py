"""Runs tasks of a study with one model at a time: in this process, or as an actor of Ray."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

import torch
from attrs import field, frozen

from scalekv_core.compare.cells import Cell
from scalekv_core.compare.measuring import pair_metrics
from scalekv_core.compare.question import Question
from scalekv_core.compare.runner import Runner
from scalekv_core.compare.tasks import Task
from scalekv_core.errors import InputError
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.requests import read_dtype
from scalekv_core.plugins.registry import Registry, load_model, shared_registry

Finished = tuple[Task, list[Cell], list[Cell] | None]
"""A task, its cells, and the unmodified images as cells where this task was the first of its batch."""


@frozen(kw_only=True)
class Loading:
    """How a worker loads a model.

    Attributes:
        question: of the study.
        weights: {model: file or folder} of those whose weights do not ship.
        plugins: {distribution: version} that the study's names come from.
        device: where it runs.
        threads: of torch; None leaves it.
    """

    question: Question
    weights: dict[str, Path]
    plugins: Mapping[str, str] = field(factory=dict)
    device: str = "cpu"
    threads: int | None = None

    def model(self, name: str, registry: Registry) -> ImageModel:
        """The model, ready to generate images of the question's shape.

        Raises:
            UnknownName, InputError, CheckpointError: it cannot be loaded.
        """
        dtype = read_dtype(self.question.dtype or "float32")
        loaded = load_model(name, weights=self.weights.get(name), device=self.device, dtype=dtype, registry=registry)
        loaded.set_shape(aspect=self.question.aspect, size=self.question.size)
        return loaded


class Held:
    """The model that was needed last, so that it is loaded once, and two are never in memory.

    Args:
        model: one that is loaded already, with the settings of the study.
    """

    def __init__(self, model: ImageModel | None = None) -> None:
        self._model = model

    def model(self, name: str, loading: Loading, registry: Registry) -> ImageModel:
        """The model of this name; raises what :meth:`Loading.model` raises."""
        if self._model is None or self._model.name != name:
            self._model = None  # before the next one is loaded
            self._model = loading.model(name, registry)
        return self._model


class Worker:
    """Runs tasks with one model at a time, loaded when a task needs it and kept until one needs another."""

    def __init__(self, loading: Loading, registry: Registry | None = None, held: Held | None = None) -> None:
        self._loading = loading
        self._registry = registry
        self._held = held or Held()
        self._model: str | None = None
        self._runner: Runner | None = None
        self._batch: tuple[str, int] | None = None

    def run(self, task: Task) -> Finished:
        """The task's cells, and with the first task of a batch its unmodified images."""
        runner = self._runner_of(task)
        cells, baseline = runner.run(task), None
        if self._batch != task.where:
            baseline, self._batch = runner.baseline_cells(task), task.where
        return task, cells, baseline

    def _runner_of(self, task: Task) -> Runner:
        if self._runner is None or self._model != task.setting.model:
            self._runner = None  # so that two models are never loaded
            if self._loading.threads is not None:
                torch.set_num_threads(self._loading.threads)
            registry = self._registry or shared_registry()
            _check_plugins(self._loading.plugins, registry)
            metrics = pair_metrics(self._loading.question, registry)
            model = self._held.model(task.setting.model, self._loading, registry)
            self._runner = Runner(model, self._loading.question, metrics, registry)
            self._model, self._batch = task.setting.model, None
            self._runner.warm_up(task)
        return self._runner


def _check_plugins(wanted: Mapping[str, str], registry: Registry) -> None:
    """Raises InputError where a plugin of the study is missing or of another version: its cells would not be comparable."""
    here = {owner.distribution: owner.version for owner in registry.owners}
    for name, version in wanted.items():
        if here.get(name) != version:
            found = f"has version {here[name]}" if name in here else "does not have it"
            raise InputError(f"the study needs plugin {name} {version}; {platform.node()} {found}: install it there")
