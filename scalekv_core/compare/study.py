"""A study from its question to its last cell: plans it, runs the missing cells, and reports its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, field, frozen
from PIL import Image

from scalekv_core.compare import growth
from scalekv_core.compare.database import FILE
from scalekv_core.compare.engines import Engine, InProcess
from scalekv_core.compare.environment import environment, plugins
from scalekv_core.compare.measuring import pair_metrics
from scalekv_core.compare.picture_files import IMAGES
from scalekv_core.compare.planning import PlannedSetting, planned_setting
from scalekv_core.compare.question import Question, Setting
from scalekv_core.compare.store import UNMODIFIED, Store
from scalekv_core.compare.tasks import Task, tasks_of
from scalekv_core.compare.worker import Finished, Loading
from scalekv_core.errors import InputError, ScaleKVError, first_line, shortened
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.metric import SetMetric
from scalekv_core.plugins.registry import Registry


@frozen(eq=False, kw_only=True)
class StudyPlan:
    """The plan of a study, known before anything is generated.

    Attributes:
        question: what is asked.
        settings: all, those that cannot be measured too.
    """

    question: Question
    settings: Sequence[PlannedSetting]

    @property
    def measured(self) -> list[Setting]:
        """The settings that can be measured."""
        return [one.setting for one in self.settings if one.refused is None]

    @property
    def refused(self) -> list[PlannedSetting]:
        """The settings that cannot, with the reason."""
        return [one for one in self.settings if one.refused is not None]

    @property
    def cells(self) -> int:
        """The number of cells: settings x images."""
        return sum(len(self.question.images(setting.model)) for setting in self.measured)

    @property
    def tasks(self) -> Iterator[Task]:
        """The tasks in running order, each made when it is needed."""
        return tasks_of(self.question, self.measured)


def plan_study(question: Question, models: Mapping[str, ImageModel], registry: Registry) -> StudyPlan:
    """The plan of a study.

    Args:
        question: what is asked.
        models: {name: model}, loaded: their shapes and profiles decide what a budget buys.
        registry: where names are looked up.

    Raises:
        UnknownName, InputError, MissingExtra: a name, an option or a metric that is not there; a prompt that a model
            does not accept; no setting can be measured.
    """
    check_question(question, registry)
    planned = [_planned(setting, question, models[setting.model], registry) for setting in question.settings(registry)]
    if all(one.refused for one in planned):
        raise InputError(
            f"no setting of this study can be measured: {planned[0].setting.label!r}: {planned[0].refused}"
        )
    return StudyPlan(question=question, settings=planned)


def check_question(question: Question, registry: Registry) -> None:
    """Refuses a wrong name, option, metric or prompt before a model is loaded.

    Raises:
        UnknownName, InputError, MissingExtra: as :func:`plan_study`.
    """
    question.settings(registry)
    pair_metrics(question, registry)
    _check_models(question, registry)
    _check_sets(question, registry)
    for name in question.models:
        _check_prompts(name, question, registry)


def _planned(setting: Setting, question: Question, model: ImageModel, registry: Registry) -> PlannedSetting:
    try:
        made = planned_setting(setting, question, model, registry)
    except ScaleKVError as error:
        return PlannedSetting(setting=setting, footprint=None, refused=first_line(error))
    return PlannedSetting(setting=setting, footprint=made.footprint)


def unmeasured(question: Question, registry: Registry) -> list[tuple[str, str, str]]:
    """(metric, model, models that it measures) wherever a metric has no figures of a model."""
    made = [(name, registry.make("metric", name).models) for name in question.metrics]
    return [
        (name, model, ", ".join(own)) for name, own in made for model in question.models if own and model not in own
    ]


def _check_models(question: Question, registry: Registry) -> None:
    """Refuses a metric that measures none of the models, since its column would be empty."""
    missing = unmeasured(question, registry)
    for name, model, own in missing:
        if sum(metric == name for metric, _, _ in missing) == len(question.models):
            raise InputError(f"metric {name!r} has no figures of model {model!r}: it measures {own} only; leave it out")


def _check_sets(question: Question, registry: Registry) -> None:
    """Refuses a metric of sets of images where a model generates clips, of which a study keeps contact sheets only."""
    clips = [model for model in question.models if registry.make("model", model).fps is not None]
    sets = [name for name in question.metrics if isinstance(registry.make("metric", name), SetMetric)]
    if clips and sets:
        raise InputError(
            f"metric {sets[0]!r} compares sets of images, and model {clips[0]!r} generates clips; leave one of them out"
        )


def _check_prompts(name: str, question: Question, registry: Registry) -> None:
    card: ModelCard = registry.make("model", name)
    if card.needs_weights or type(card).accepts is ModelCard.accepts:
        return  # only the loaded model knows its language
    wrong = next((prompt for prompt in question.prompts[name] if not card.accepts(prompt)), None)
    if wrong is not None:
        raise InputError(
            f"model {name!r} does not accept the prompt {shortened(wrong)}; it takes prompts like {card.example!r}"
        )


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

        Raises:
            InputError: the folder holds a study of another question, of more settings, of other versions or weights.
        """
        known = environment(list(models.values()), plan.measured, plan.question.metrics, loading.device, registry)
        store = Store.create(folder, plan.question, known, plan.settings, command=command)
        loading = evolve(loading, plugins=plugins(plan.measured, plan.question.metrics, registry))
        return cls(plan=plan, store=store, registry=registry, loading=loading, engine=engine or InProcess(registry))

    def missing(self) -> int:
        """How many cells are not finished."""
        return sum(cells_left(self.plan, self.store).values())

    @property
    def done(self) -> int:
        """How many cells of this plan are finished; the store may have grown beyond it meanwhile."""
        return self.plan.cells - self.missing()

    def retry(self) -> int:
        """Forgets the cells that failed, so that they run again; how many."""
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


def begun(
    plan: StudyPlan, folder: Path, models: Mapping[str, ImageModel], *, device: str, registry: Registry
) -> Store | None:
    """The store of a study that exists in a folder, opened for reading; None if there is none.

    Raises:
        InputError: the folder holds another study.
    """
    if not (folder / FILE).is_file():
        return None
    store = Store.open(folder)
    known = environment(list(models.values()), plan.measured, plan.question.metrics, device, registry)
    growth.check_grows(store, plan.question.as_dict(), known, plan.settings)
    return store


def cells_left(plan: StudyPlan, store: Store | None, *, retry: bool = False) -> dict[str, int]:
    """{model: how many of a plan's cells a store does not have}; None has none, and with ``retry`` failed ones are missing."""
    left = dict.fromkeys(plan.question.models, 0)
    finished = {} if store is None else store.cells_by_setting(failed=not retry)
    for setting in plan.measured:
        left[setting.model] += len(plan.question.images(setting.model)) - finished.get(setting.key, 0)
    return left


def failures(store: Store) -> list[tuple[str, str, int]]:
    """(setting, reason, how many images) of all cells that failed, the most frequent first."""
    return [
        (str(label), str(reason), int(number))
        for label, reason, number in store.rows(
            "SELECT s.label, c.failed, COUNT(*) FROM cell c JOIN setting s ON s.id = c.setting WHERE c.failed IS NOT NULL"
            " GROUP BY s.label, c.failed ORDER BY COUNT(*) DESC, s.label"
        )
    ]
