"""Where the tasks of a study run: in this process, or by Ray on the devices of one machine or of a cluster.

An engine takes tasks and gives back finished ones in any order. Only the caller writes to the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from attrs import frozen

from scalekv_core.compare.question import Question
from scalekv_core.compare.runner import Runner, Task, pair_metrics
from scalekv_core.compare.store import Cell
from scalekv_core.errors import InputError, ScaleKVError, missing_extra
from scalekv_core.models.image_model import ImageModel
from scalekv_core.plugins.registry import Registry, load_model, shared_registry

Finished = tuple[Task, list[Cell], list[Cell] | None]
"""A task, its cells, and the unmodified images as cells where this task was the first of its batch."""


@frozen(kw_only=True)
class Loading:
    """How a worker gets a model.

    Attributes:
        question: of the study.
        weights: {model: file or folder} of those whose weights do not ship.
        device: where it runs.
        threads: of torch; None leaves it.
    """

    question: Question
    weights: dict[str, Path]
    device: str = "cpu"
    threads: int | None = None

    def model(self, name: str, registry: Registry) -> ImageModel:
        """The model, ready to generate images of the question's shape.

        Raises:
            UnknownName, InputError, CheckpointError: it cannot be loaded.
        """
        dtype = getattr(torch, self.question.dtype or "float32")
        loaded = load_model(name, weights=self.weights.get(name), device=self.device, dtype=dtype, registry=registry)
        loaded.set_shape(aspect=self.question.aspect, size=self.question.size)
        return loaded


class Worker:
    """Runs tasks with one model at a time, loaded until a task wants another."""

    def __init__(self, loading: Loading, registry: Registry | None = None) -> None:
        if loading.threads is not None:
            torch.set_num_threads(loading.threads)
        self._loading = loading
        self._registry = registry or shared_registry()
        self._metrics = pair_metrics(loading.question, self._registry)
        self._model: str | None = None
        self._runner: Runner | None = None
        self._batch: tuple[str, int] | None = None

    def run(self, task: Task) -> Finished:
        """The task's cells, and with the first task of a batch its unmodified images."""
        runner = self._runner_of(task)
        first = self._batch != (task.setting.model, task.batch)
        cells = runner.run(task)
        baseline = None
        if first and all(cell.failed is None for cell in cells):
            baseline, self._batch = runner.baseline_cells(task), (task.setting.model, task.batch)
        return task, cells, baseline

    def _runner_of(self, task: Task) -> Runner:
        if self._runner is None or self._model != task.setting.model:
            self._runner = None  # so that two models are never loaded
            model = self._loading.model(task.setting.model, self._registry)
            self._runner = Runner(model, self._loading.question, self._metrics, self._registry)
            self._model, self._batch = task.setting.model, None
            self._runner.warm_up(task)
        return self._runner


class Engine(Protocol):
    """Where tasks run."""

    def run(self, tasks: Sequence[Task], loading: Loading, wanted: Callable[[Task], bool]) -> Iterator[Finished]:
        """Finished tasks, in any order.

        Args:
            tasks: in the order in which they should begin.
            loading: how models are had.
            wanted: asked right before a task begins; False leaves it out, since somebody else has it.
        """
        ...


@frozen
class InProcess:
    """One task after the other, in this process.

    Attributes:
        registry: where names are looked up; None takes the installed plugins.
    """

    registry: Registry | None = None

    def run(self, tasks: Sequence[Task], loading: Loading, wanted: Callable[[Task], bool]) -> Iterator[Finished]:
        worker = Worker(loading, self.registry)
        for task in tasks:
            if wanted(task):
                yield worker.run(task)


@frozen(kw_only=True)
class RayEngine:
    """One actor for each device, which loads a model once; tasks of a lost actor run again on another.

    Attributes:
        address: of the cluster; ``"local"`` starts one on this machine.
        workers: how many; None takes one for every GPU, or for every processor where there is none.
        tries: how often a task may lose its worker before the study goes on without it.
    """

    address: str = "local"
    workers: int | None = None
    tries: int = 3

    def run(self, tasks: Sequence[Task], loading: Loading, wanted: Callable[[Task], bool]) -> Iterator[Finished]:
        ray = _ray()
        try:
            ray.init(
                address=None if self.address == "local" else self.address, log_to_driver=False, include_dashboard=False
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise InputError(f"no Ray cluster answers at {self.address!r} ({str(error).splitlines()[0]})") from error
        try:
            yield from _Crew(ray, self, loading).run(tasks, wanted)
        finally:
            ray.shutdown()


class _Crew:
    """The actors of a Ray engine, and what each is doing."""

    def __init__(self, ray: Any, engine: RayEngine, loading: Loading) -> None:
        self._ray = ray
        self._engine = engine
        self._loading = loading
        gpus = int(ray.cluster_resources().get("GPU", 0)) if loading.device.startswith("cuda") else 0
        self._number = engine.workers or gpus or int(ray.cluster_resources().get("CPU", 1))
        self._actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(Worker)
        self._idle = [self._hire() for _ in range(self._number)]
        self._last: dict[Any, tuple[str, int]] = {}  # the batch whose unmodified images a worker has
        self._lost: dict[Task, int] = {}

    def _hire(self) -> Any:
        return self._actor.remote(self._loading)

    def run(self, tasks: Sequence[Task], wanted: Callable[[Task], bool]) -> Iterator[Finished]:
        waiting, running = list(tasks), dict[Any, tuple[Any, Task]]()
        while waiting or running:
            while self._idle and waiting:
                worker = self._idle.pop()
                task = self._next_for(worker, waiting)
                if wanted(task):
                    running[worker.run.remote(task)] = worker, task
                    self._last[worker] = task.setting.model, task.batch
                else:
                    self._idle.append(worker)
            if not running:
                return
            (done,), _ = self._ray.wait(list(running), num_returns=1)
            worker, task = running.pop(done)
            yield from self._collect(done, worker, task, waiting)

    def _next_for(self, worker: Any, waiting: list[Task]) -> Task:
        """The next task, preferably of the batch that the worker has generated unmodified."""
        last = self._last.get(worker)
        same = (i for i, task in enumerate(waiting) if (task.setting.model, task.batch) == last)
        others = set(self._last.values())
        fresh = (i for i, task in enumerate(waiting) if (task.setting.model, task.batch) not in others)
        return waiting.pop(next(same, next(fresh, 0)))

    def _collect(self, done: Any, worker: Any, task: Task, waiting: list[Task]) -> Iterable[Finished]:
        errors = self._ray.exceptions
        try:
            finished: Finished = self._ray.get(done)
        except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError) as error:
            self._last.pop(worker, None)
            self._idle.append(self._hire())
            self._lost[task] = self._lost.get(task, 0) + 1
            if self._lost[task] < self._engine.tries:
                waiting.insert(0, task)
                return []
            reason = f"its worker was lost {self._engine.tries} times ({str(error).splitlines()[0]})"
            return [(task, [Cell(prompt=p, seed=s, failed=reason) for p, s in task.images], None)]
        except (
            errors.RayTaskError
        ) as error:  # what a worker raises on purpose: a missing plugin, weights that are not there
            cause = error.cause if isinstance(error.cause, ScaleKVError) else error
            raise InputError(f"a worker cannot run the study: {str(cause).splitlines()[0]}") from error
        self._idle.append(worker)
        return [finished]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray", "scalekv compare with --engine ray or --workers") from error
    return ray
