"""A study at work: runs the missing cells of a plan and writes them into its store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, field, frozen
from PIL import Image

from scalekv_core.compare.engines import Engine, InProcess
from scalekv_core.compare.environment import environment, plugins
from scalekv_core.compare.picture_files import IMAGES
from scalekv_core.compare.question import Setting
from scalekv_core.compare.state import cells_left
from scalekv_core.compare.store import UNMODIFIED, Store
from scalekv_core.compare.study_plan import StudyPlan
from scalekv_core.compare.tasks import Task
from scalekv_core.compare.worker import Finished, Held, Loading
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.metric import SetMetric
from scalekv_core.plugins.registry import Registry


@frozen(eq=False, kw_only=True)
class Progress:
    """The progress of a study: cells done, cells in all, and the last task."""

    done: int
    total: int
    task: Task


@frozen(eq=False, kw_only=True)
class Study:
    """A planned study with its store.

    Attributes:
        plan: what is to be done.
        store: where cells go.
        registry: where names are looked up.
        loading: how a worker gets its model.
    """

    plan: StudyPlan
    store: Store
    registry: Registry
    loading: Loading
    engine: Engine = field(factory=InProcess)

    @classmethod
    def begin(
        cls,
        plan: StudyPlan,
        folder: Path,
        models: Mapping[str, ImageModel],
        *,
        loading: Loading,
        registry: Registry,
        engine: Engine | None = None,
        command: str = "",
    ) -> Study:
        """Opens the study in a folder, to go on with it or to let it grow, or makes a new one.

        Without an engine it runs in this process, which holds on to the model that it needs first, so that it is not loaded again.

        Raises:
            InputError: the folder holds a study of another question, of more settings, of other versions or weights.
        """
        known = environment(list(models.values()), plan.measured, plan.question.metrics, loading.device, registry)
        store = Store.create(folder, plan.question, known, plan.settings, command=command)
        loading = evolve(loading, plugins=plugins(plan.measured, plan.question.metrics, registry))
        if engine is None:
            left = cells_left(plan, store)
            engine = InProcess(registry, Held(next((models[name] for name, cells in left.items() if cells), None)))
        return cls(plan=plan, store=store, registry=registry, loading=loading, engine=engine)

    def missing(self) -> int:
        """How many cells are not finished."""
        return sum(cells_left(self.plan, self.store).values())

    @property
    def done(self) -> int:
        """How many cells of this plan are finished; the store may have grown beyond it meanwhile."""
        return self.plan.cells - self.missing()

    def retry(self) -> int:
        """Forgets the cells that failed, or of which a metric raised, so that they run again; how many."""
        return self.store.forget_failed()

    def run(self) -> Iterator[Progress]:
        """Runs the missing cells; yields after every task. It can be stopped at any time and resumed.

        What another process works at is left to it, and taken over where that process has ended meanwhile.
        """
        ran = True
        while ran and (done := self.done) < self.plan.cells:
            ran = False
            for task, cells, baseline in self.engine.run(self.plan.tasks, self.loading, self._wanted):
                self._keep((task, cells, baseline))
                ran, done = True, done + len(task.images)
                yield Progress(done=done, total=self.plan.cells, task=task)

    def finish(self) -> None:
        """Computes the metrics of whole sets from the pictures in the store."""
        for name in self.plan.question.metrics:
            metric = self.registry.make("metric", name)
            if isinstance(metric, SetMetric):
                for setting in self.plan.measured:
                    self._measure_set(name, metric, setting)

    def _measure_set(self, name: str, metric: SetMetric, setting: Setting) -> None:
        if metric.models and setting.model not in metric.models:
            return
        mine, theirs = self.store.pictures(setting.key, setting.model), self.store.pictures(UNMODIFIED, setting.model)
        both = sorted(set(mine) & set(theirs))
        if both:
            value = metric.measure((self._tensor(mine[i]) for i in both), (self._tensor(theirs[i]) for i in both))
            self.store.set_figure(setting.key, name, value, len(both))

    def _tensor(self, file: str) -> Any:
        import torch

        pixels = np.asarray(Image.open(self.store.folder / IMAGES / file).convert("RGB"))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255

    def _wanted(self, task: Task) -> bool:
        return not self._finished(task) and self.store.claim(task.setting.key, task.batch)

    def _finished(self, task: Task) -> bool:
        return self.store.finished(task.setting.key, task.images, task.setting.model)

    def _keep(self, finished: Finished) -> None:
        task, cells, baseline = finished
        self.store.finish(task.setting.key, task.setting.model, task.batch, cells)
        if baseline is not None:
            self.store.finish(UNMODIFIED, task.setting.model, task.batch, baseline)
