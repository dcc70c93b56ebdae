"""How far a study is: which cells of a plan a store lacks, and which have no figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scalekv_core.compare import growth
from scalekv_core.compare.database import FILE
from scalekv_core.compare.environment import environment
from scalekv_core.compare.store import ERRED, Store
from scalekv_core.compare.study_plan import StudyPlan
from scalekv_core.models.image_model import ImageModel
from scalekv_core.plugins.registry import Registry


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


def metric_gaps(store: Store) -> list[tuple[str, str, int, int, bool]]:
    """(metric, reason, settings, images, whether it is worth another try) of all figures that are not numbers."""
    return [
        (str(metric), str(note), int(settings), int(images), bool(erred))
        for metric, note, settings, images, erred in store.rows(
            f"SELECT f.metric, f.note, COUNT(DISTINCT c.setting), COUNT(*), {ERRED} FROM figure f JOIN cell c ON c.id = f.cell"
            " WHERE f.scale = -1 AND f.value IS NULL GROUP BY f.metric, f.note ORDER BY COUNT(*) DESC, f.metric, f.note"
        )
    ]
