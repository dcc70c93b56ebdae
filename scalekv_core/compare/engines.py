"""Where the tasks of a study run: in this process, or by Ray on the devices of one machine or of a cluster.

An engine takes tasks and gives back finished ones in any order. Only the caller writes to the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from attrs import field, frozen

from scalekv_core.compare.tasks import Task
from scalekv_core.compare.worker import Finished, Held, Loading, Worker
from scalekv_core.plugins.registry import Registry


class Engine(Protocol):
    """An engine: it runs tasks."""

    def run(self, tasks: Iterable[Task], loading: Loading, wanted: Callable[[Task], bool]) -> Iterator[Finished]:
        """Finished tasks, in any order.

        Args:
            tasks: in the order in which they should begin, batch by batch; taken as they are needed.
            loading: how models are had.
            wanted: asked right before a task begins; False leaves it out, since it is done or somebody else has it.
        """
        ...


@frozen(eq=False)
class InProcess:
    """One task after the other, in this process.

    Attributes:
        registry: where names are looked up; None takes the installed plugins.
        held: the model that is loaded.
    """

    registry: Registry | None = None
    held: Held = field(factory=Held)

    def run(self, tasks: Iterable[Task], loading: Loading, wanted: Callable[[Task], bool]) -> Iterator[Finished]:
        worker = Worker(loading, self.registry, self.held)
        for task in tasks:
            if wanted(task):
                yield worker.run(task)
