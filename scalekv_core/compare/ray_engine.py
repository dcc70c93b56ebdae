"""Runs a study on Ray: one actor for each device, which loads a model once; only the caller writes results."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import define, field, frozen

from scalekv_core.compare.cells import Cell
from scalekv_core.compare.tasks import Task
from scalekv_core.compare.worker import Finished, Loading, Worker
from scalekv_core.errors import InputError, ScaleKVError, missing_extra

PATIENCE = 10.0
"""Seconds to wait for a cluster to answer."""


@frozen(kw_only=True)
class RayEngine:
    """One actor for each device; the tasks of an actor that is lost run again on another.

    Attributes:
        address: of the cluster; ``"local"`` starts one on this machine, ``"auto"`` takes the one that runs here.
        workers: how many; None takes one for every GPU, or for every processor where there is none.
        tries: how often a task may lose its worker before the study goes on without it.
    """

    address: str = "local"
    workers: int | None = None
    tries: int = 3

    def check(self) -> None:
        """Raises MissingExtra if Ray is not installed, InputError if nothing answers at the address."""
        _ray()
        if self.address == "local":
            return
        address = _running_here() if self.address == "auto" else self.address
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not host:
            raise InputError(f"a Ray cluster is 'local', 'auto' or HOST:PORT; got {address!r}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
        except (OSError, ValueError, OverflowError) as error:  # Ray itself would go on trying for minutes
            raise InputError(f"no Ray cluster answers at {address!r} ({_first_line(error)})") from error

    def run(self, tasks: Iterable[Task], loading: Loading, wanted: Callable[[Task], bool]) -> Iterator[Finished]:
        self.check()
        ray = _ray()
        _connect(ray, self.address)
        try:
            yield from _Crew(ray, self, loading, wanted).run(tasks)
        finally:
            ray.shutdown()


@define(eq=False)
class _Hired:
    """An actor with the remaining tasks of its batch, of which it has the unmodified images."""

    actor: Any
    tasks: deque[Task] = field(factory=deque)


class _Crew:
    """The actors of a Ray engine, and their current tasks."""

    def __init__(self, ray: Any, engine: RayEngine, loading: Loading, wanted: Callable[[Task], bool]) -> None:
        self._ray, self._tries, self._loading, self._wanted = ray, engine.tries, loading, wanted
        has = ray.cluster_resources()
        gpus = int(has.get("GPU", 0)) if loading.device.startswith("cuda") else 0
        number = engine.workers or gpus or int(has.get("CPU", 1))
        if number > (most := gpus or int(has.get("CPU", 0))):
            raise InputError(
                f"{number} workers were asked for; this Ray cluster has {most} {'GPUs' if gpus else 'CPUs'}"
            )
        self._actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(Worker)
        self._hired = [_Hired(self._actor.remote(loading)) for _ in range(number)]
        self._lost: dict[Task, int] = {}

    def run(self, tasks: Iterable[Task]) -> Iterator[Finished]:
        batches = (deque(batch) for _, batch in itertools.groupby(tasks, key=lambda task: task.where))
        running: dict[Any, tuple[_Hired, Task]] = {}
        idle = list(self._hired)
        while True:
            while idle and (task := self._next_for(idle[-1], batches)):
                hired = idle.pop()
                running[hired.actor.run.remote(task)] = hired, task
            if not running:
                return
            (done,), _ = self._ray.wait(list(running), num_returns=1)
            hired, task = running.pop(done)
            yield from self._collect(done, hired, task)
            idle.append(hired)

    def _next_for(self, hired: _Hired, batches: Iterator[deque[Task]]) -> Task | None:
        """The next wanted task of the worker's batch, or of a new one, or half of what is left of the longest."""
        while True:
            while hired.tasks:
                if self._wanted(task := hired.tasks.popleft()):
                    return task
            if fresh := next(batches, None):
                hired.tasks = fresh
            elif len(longest := max((one.tasks for one in self._hired), key=len)) > 0:
                hired.tasks = deque(longest.pop() for _ in range((len(longest) + 1) // 2))
            else:
                return None

    def _collect(self, done: Any, hired: _Hired, task: Task) -> list[Finished]:
        errors = self._ray.exceptions
        try:
            finished: Finished = self._ray.get(done)
        except errors.RayTaskError as error:  # what a worker raises on purpose: a missing plugin, missing weights
            raise _cannot(error.cause if isinstance(error.cause, ScaleKVError) else error) from error
        except errors.RayError as error:  # it was killed, or its machine is gone
            if getattr(error, "actor_init_failed", False):
                raise _cannot(error) from error
            return self._again(hired, task, error)
        return [finished]

    def _again(self, hired: _Hired, task: Task, error: Exception) -> list[Finished]:
        """Replaces a lost worker by one that begins with the lost task."""
        hired.actor = self._actor.remote(self._loading)
        self._lost[task] = self._lost.get(task, 0) + 1
        if self._lost[task] < self._tries:
            hired.tasks.appendleft(task)
            return []
        reason = f"its worker was lost {self._tries} times ({_first_line(error)})"
        return [(task, [Cell(prompt=prompt, seed=seed, failed=reason) for prompt, seed in task.images], None)]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray", "scalekv compare with --engine ray or --workers") from error
    return ray


def _running_here() -> str:
    """The address that Ray takes for "auto": of the environment, of a process, or of a file that a cluster leaves behind when it is
    killed.

    Raises:
        InputError: there is none.
    """
    from ray._private.services import get_ray_address_from_environment

    try:
        return str(get_ray_address_from_environment("auto", None))
    except ConnectionError as error:
        raise InputError(
            "no Ray cluster runs on this machine; start one with ray start --head, or give --address HOST:PORT"
        ) from error


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(
            address=address,  # "local" never joins a cluster that happens to run
            log_to_driver=False,
            include_dashboard=False if address == "local" else None,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError) as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        hint = "" if ":" not in address else "; where it needs a token, set RAY_AUTH_MODE=token"
        raise InputError(f"no Ray cluster answers at {address!r} ({_first_line(error)}){hint}") from error


def _cannot(error: Exception) -> InputError:
    return InputError(f"a worker cannot run the study: {_first_line(error)}; what was finished is kept")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
