"""The plan of a study: its settings with their bytes, and those that cannot be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from scalekv_core.compare.checking import check_question
from scalekv_core.compare.planning import PlannedSetting, planned_setting
from scalekv_core.compare.question import Question, Setting
from scalekv_core.compare.tasks import Task, tasks_of
from scalekv_core.errors import InputError, ScaleKVError, first_line
from scalekv_core.models.image_model import ImageModel
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


def _planned(setting: Setting, question: Question, model: ImageModel, registry: Registry) -> PlannedSetting:
    try:
        made = planned_setting(setting, question, model, registry)
    except ScaleKVError as error:
        return PlannedSetting(setting=setting, footprint=None, refused=first_line(error))
    return PlannedSetting(setting=setting, footprint=made.footprint)
