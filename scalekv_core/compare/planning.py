"""The plan of a setting of a study: made once, sized before the study begins and used in every task."""

from __future__ import annotations

from attrs import evolve, frozen

from scalekv_core.compare.question import Question, Setting
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel
from scalekv_core.planning.footprint import Footprint
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.plugins.registry import Registry


@frozen(eq=False, kw_only=True)
class PlannedSetting:
    """A setting with its bytes, or why it cannot be measured.

    Attributes:
        setting: which.
        footprint: of a batch's cache; None if it was refused.
        refused: one line; None if it can be measured.
    """

    setting: Setting
    footprint: Footprint | None
    refused: str | None = None


def planned_setting(setting: Setting, question: Question, model: ImageModel, registry: Registry) -> Planned:
    """The plan of a setting for a batch of the question.

    Raises:
        BudgetError, ProfileError, ContractError: it cannot be planned.
    """
    policy = setting.made(registry)
    _, adapter = registry.adapter_for(model.module)
    card: ModelCard = registry.make("model", setting.model)
    rows = question.batch * card.rows_of(question.sampling_of(model.sampling))
    geometry = evolve(adapter.geometry(model.module), schedule=model.schedule, rows=rows)
    return plan_policy(policy, geometry, budget=setting.budget or None, profile=model.profile, model=setting.model)
