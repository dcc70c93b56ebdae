"""A study runs every cell once, whatever interrupts it, and says of each why it has no figure."""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve

from scalekv_core.compare import worker
from scalekv_core.compare.checking import unmeasured
from scalekv_core.compare.database import FILE, StudyError
from scalekv_core.compare.engines import InProcess
from scalekv_core.compare.picture_files import IMAGES
from scalekv_core.compare.recommendation import needed, recommend
from scalekv_core.compare.results import results_of
from scalekv_core.compare.state import failures
from scalekv_core.compare.store import UNMODIFIED, Store
from scalekv_core.compare.tasks import tasks_of
from scalekv_core.errors import CheckpointError, InputError, UnknownName
from scalekv_core.models.image_model import ImageModel
from scalekv_core.planning.planner import Planned
from scalekv_core.plugins.registry import Registry
from scalekv_core.testing import toy
from tests.compare.conftest import StudyIn, asked

ROOT = Path(__file__).parents[2]


def cells(folder: Path) -> int:
    with sqlite3.connect(folder / FILE) as db:
        return int(
            db.execute(
                "SELECT COUNT(*) FROM cell c JOIN setting s ON s.id = c.setting WHERE s.key != ?", (UNMODIFIED,)
            ).fetchone()[0]
        )


def test_every_cell_is_measured_once(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """Settings x images, beside one unmodified image per prompt and seed; ``full`` is identical."""
    study = study_in(tmp_path)
    progress = list(study.run())
    (results,) = results_of(study.store, registry)

    assert (6, 6, 6) == (study.plan.cells, cells(tmp_path), progress[-1].done)
    assert 0 == study.missing()
    assert all(results.baseline)
    full = results.rows[0]
    assert [math.inf, math.inf] == full.figures["psnr"].tolist()
    assert [0.0, 0.0] == full.figures["forced-kl"].tolist()


def test_what_is_held_is_what_was_planned(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """The bytes of a setting are measured, and equal those that were planned before."""
    study = study_in(tmp_path)
    list(study.run())

    for row in results_of(study.store, registry)[0].rows:
        assert row.planned_bytes == row.resident_bytes
        assert row.peak_bytes is not None
        assert row.peak_bytes >= row.resident_bytes  # type: ignore[operator]


def test_a_study_that_was_left_goes_on(study_in: StudyIn, tmp_path: Path) -> None:
    """After one task the rest is missing; a second run does the rest and nothing twice."""
    next(study_in(tmp_path).run())
    again = study_in(tmp_path)
    missing = again.missing()
    done = list(again.run())

    assert 5 == missing == len(done)
    assert 6 == cells(tmp_path)


def test_two_processes_do_not_double_a_cell(study_in: StudyIn, tmp_path: Path) -> None:
    """Both finish, one is not told of the other's cells, and each is there once."""
    one, other = study_in(tmp_path), study_in(tmp_path)
    list(one.run())
    for task in other.plan.tasks:  # as if it had begun before the first wrote
        worker = next(InProcess(other.registry).run([task], other.loading, lambda _: True))
        other._keep(worker)

    assert 6 == cells(tmp_path)


def test_a_task_of_a_living_process_is_left_to_it(study_in: StudyIn, tmp_path: Path) -> None:
    """A claim of another process that lives holds; one of a process that is gone does not."""
    study = study_in(tmp_path)
    task = next(study.plan.tasks)
    setting = study.store.setting(task.setting.key)
    host = os.uname().nodename
    for pid, free in ((os.getppid(), False), (2**22 - 1, True)):
        study.store.db.execute("REPLACE INTO claim VALUES (?, ?, ?, ?, ?)", (setting, task.batch, host, pid, 0.0))
        assert free is study.store.claim(task.setting.key, task.batch)


def test_another_question_in_the_same_folder_is_refused(study_in: StudyIn, tmp_path: Path) -> None:
    """The message names what differs."""
    study_in(tmp_path)

    with pytest.raises(InputError, match=r"holds another study.*seeds: \[7\] here, \[0\] there"):
        study_in(tmp_path, asked(seeds=(7,)))


def test_other_weights_are_refused(study_in: StudyIn, tmp_path: Path) -> None:
    """What a study depends on beside its question is compared, too."""
    study = study_in(tmp_path)
    known = study.store.environment | {"weights": {"toy": "sha256:other"}}
    study.store.db.execute("UPDATE study SET environment = ?", (json.dumps(known),))

    with pytest.raises(InputError, match=r"weights \(toy\): 'sha256:[0-9a-f]+' here, 'sha256:other' there"):
        study_in(tmp_path)


def test_a_setting_that_cannot_be_planned_is_named_and_the_rest_runs(
    study_in: StudyIn, tmp_path: Path, registry: Registry
) -> None:
    """A budget below what a policy needs costs that setting only."""
    study = study_in(tmp_path, asked(budgets=("50%", "900%")))
    (refused,) = study.plan.refused
    list(study.run())

    assert "uniform 900%" == refused.setting.label
    assert "more than the whole history" in (refused.refused or "")
    assert [None, None, refused.refused] == [row.refused for row in results_of(study.store, registry)[0].rows]


def test_a_setting_that_a_later_plan_accepts_is_no_longer_marked(
    study_in: StudyIn, tmp_path: Path, registry: Registry
) -> None:
    """It has its planned bytes then; one that was measured keeps its own, whatever a later plan says."""
    study = study_in(tmp_path)
    before = study.store.rows("SELECT key, planned_bytes, unmodified_bytes, refused FROM setting ORDER BY id")
    study.store.db.execute(
        "UPDATE setting SET refused = 'no profile', planned_bytes = NULL WHERE label = 'uniform 20%'"
    )
    study.store.close()
    again = study_in(tmp_path)

    assert before == again.store.rows("SELECT key, planned_bytes, unmodified_bytes, refused FROM setting ORDER BY id")
    again.store.add_setting(evolve(again.plan.settings[1], footprint=None, refused="not today"))
    assert before == again.store.rows("SELECT key, planned_bytes, unmodified_bytes, refused FROM setting ORDER BY id")


def test_a_model_is_loaded_once(study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the plan; the engine in this process goes on with it, and loads where it needs another."""
    study = study_in(tmp_path)
    loaded: list[str] = []
    load = worker.load_model
    monkeypatch.setattr(worker, "load_model", lambda name, **how: loaded.append(name) or load(name, **how))

    assert 6 == len(list(study.run()))
    assert [] == loaded
    held = worker.Held()
    one, same = (held.model("toy", study.loading, study.registry) for _ in range(2))
    assert one is same
    one.name = "another"
    assert one is not held.model("toy", study.loading, study.registry)
    assert ["toy", "toy"] == loaded


def test_what_is_not_a_number_is_marked(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """A metric that has no number for one image has one of the other, and is in no mean as 0."""
    study = study_in(
        tmp_path,
        asked(policies=("uniform",), budgets=("50%",), seeds=(0, 1), prompts={"toy": ("1",)}, metrics=("brightness",)),
    )
    list(study.run())
    (results,) = results_of(study.store, registry)
    summary = results.summary(results.rows[0], "brightness")

    assert (1, 1) == (summary.images, summary.missing)
    assert ("not a number",) == study.store.db.execute("SELECT note FROM figure WHERE value IS NULL").fetchone()


def test_an_image_that_fails_is_a_cell_with_a_reason(
    study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study goes on, and says at the end what is missing."""
    study = study_in(tmp_path, asked(policies=("uniform",), budgets=("50%", "20%")))
    from scalekv_core.compare import runner

    compress = runner.compress

    def failing(model: object, plan: Planned, **how: object) -> object:
        if "20%" in str(plan.budget):
            raise RuntimeError("the device is on fire\nand more")
        return compress(model, plan, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "compress", failing)
    list(study.run())

    assert [("uniform 20%", "RuntimeError: the device is on fire", 2)] == failures(study.store)
    assert 4 == cells(tmp_path)


def test_a_model_that_is_not_finite_is_marked_with_scale_and_layer(
    study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    """One image of a batch is not finite: its cell says where that began, the other image has its figures, and no mean
    holds what is no number."""
    load = toy.ToyCard.load

    def broken(self: toy.ToyCard, **how: object) -> ImageModel:
        model = load(self, **how)  # type: ignore[arg-type]
        model.module.prompts.weight.data[1] = torch.inf
        return model

    monkeypatch.setattr(toy.ToyCard, "load", broken)
    study = study_in(tmp_path, asked(policies=("uniform",), budgets=("50%",), batch=2))
    list(study.run())
    (results,) = results_of(study.store, registry)
    (row,) = results.rows
    summary = results.summary(row, "forced-kl")

    ((label, reason, images), _) = failures(study.store)
    assert ("uniform 50%", 1) == (label, images)
    assert "the queries of layer 0 at scale 0 are not finite" in reason
    assert (1, 1, True) == (summary.images, summary.missing, math.isfinite(summary.value))
    assert [True, False] == [file is not None for file in row.files]
    assert 0 == study.missing()


def test_a_metric_that_raises_costs_its_figure_only(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """Whatever a plugin raises: the figure is not a number, with the reason, and the other metrics have theirs."""
    study = study_in(tmp_path, asked(policies=("uniform",), budgets=("50%",), metrics=("broken", "psnr")))
    list(study.run())
    (row,) = results_of(study.store, registry)[0].rows

    assert [("broken", "KeyError: 'no such image'")] == study.store.rows(
        "SELECT DISTINCT metric, note FROM figure WHERE note NOT NULL"
    )
    assert np.isfinite(row.figures["psnr"]).all()


def test_a_metric_that_is_not_there_is_refused_first(study_in: StudyIn, tmp_path: Path) -> None:
    """Before a folder is made."""
    with pytest.raises(UnknownName, match="no metric is called 'beauty'"):
        study_in(tmp_path / "study", asked(metrics=("beauty",)))
    assert not (tmp_path / "study").exists()


def test_a_metric_that_measures_no_model_of_the_study_is_refused_first(
    study_in: StudyIn, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its column would be empty; with another model beside it the models without figures are named."""
    from tests.compare.conftest import Brightness

    monkeypatch.setattr(Brightness, "models", ("var-tiny", "infinity-tiny"))
    question = asked(metrics=("psnr", "brightness"))
    why = "metric 'brightness' has no figures of model 'toy': it measures var-tiny, infinity-tiny only; leave it out"
    with pytest.raises(InputError, match=why):
        study_in(tmp_path / "study", question)
    two = asked(models=("toy", "var-tiny"), prompts={"toy": ("1",), "var-tiny": ("1",)}, metrics=("brightness",))

    assert [("brightness", "toy", "var-tiny, infinity-tiny")] == unmeasured(two, registry)
    assert not (tmp_path / "study").exists()


def test_a_prompt_that_a_model_does_not_take_is_refused_first(
    study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one that it takes; where the card does not know its model's language, the cells say what the model says."""
    monkeypatch.setattr(toy.ToyCard, "accepts", lambda self, prompt: prompt.isdigit())
    with pytest.raises(InputError, match="model 'toy' does not accept the prompt 'a cat'; it takes prompts like '3'"):
        study_in(tmp_path, asked(prompts={"toy": ("a cat",)}))


def test_settings_take_turns(registry: Registry) -> None:
    """Every batch runs every setting, in another order, so that a slow hour slows all alike; the order is fixed."""
    question = asked(prompts={"toy": tuple(map(str, range(8)))}, budgets=("50%", "40%", "30%", "20%"))
    tasks = list(tasks_of(question, question.settings(registry)))
    orders = [tuple(t.setting.label for t in tasks if t.batch == batch) for batch in range(8)]

    assert 1 == len({frozenset(order) for order in orders})
    assert 1 < len(set(orders))
    assert tasks == list(tasks_of(question, question.settings(registry)))


def test_figures_by_scale_are_kept(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """One for each scale; the first scale has no history that could be compressed."""
    study = study_in(tmp_path, asked(policies=("uniform",), budgets=("20%",)))
    list(study.run())
    scales = results_of(study.store, registry)[0].rows[0].scales["forced-kl"]

    assert 0.0 == scales[0]
    assert len(scales) == study.store.db.execute("SELECT MAX(scale) + 1 FROM figure").fetchone()[0]


def test_a_study_of_which_nothing_can_be_measured_is_refused(study_in: StudyIn, tmp_path: Path) -> None:
    """With the reason of the first setting."""
    with pytest.raises(InputError, match="no setting of this study can be measured: 'uniform 1B'"):
        study_in(tmp_path, asked(policies=("uniform",), budgets=("1B",)))


def test_nothing_is_recommended_by_a_metric_without_figures(
    study_in: StudyIn, tmp_path: Path, registry: Registry
) -> None:
    """A study that has not begun has none."""
    (results,) = results_of(study_in(tmp_path).store, registry)
    with pytest.raises(InputError, match="the study has no figure of 'forced-kl' for model 'toy'"):
        recommend(results, 2**30, "forced-kl")


@pytest.mark.parametrize(
    ("figures", "got"), [(torch.zeros(3), r"\(3,\)"), (0.5, "float")], ids=["too many", "no tensor"]
)
def test_a_metric_returns_one_figure_per_image(
    study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: object, got: str
) -> None:
    """Otherwise it has no figure, and its cells say why."""
    from tests.compare.conftest import Brightness

    monkeypatch.setattr(Brightness, "measure", lambda self, pair: figures)
    study = study_in(tmp_path, asked(policies=("uniform",), budgets=("50%",), metrics=("brightness",)))
    list(study.run())
    ((note,),) = study.store.rows("SELECT DISTINCT note FROM figure WHERE note NOT NULL")

    assert re.search(rf"metric 'brightness' must return one figure per image, of shape \(1,\); got {got}", note)


def test_a_metric_whose_weights_are_not_at_hand_is_refused_first(
    study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the metric says."""
    from tests.compare.conftest import Brightness

    def check_available(self: Brightness) -> None:
        raise CheckpointError("its weights are not there")

    monkeypatch.setattr(Brightness, "check_available", check_available)
    with pytest.raises(InputError, match="metric 'brightness' cannot be used: its weights are not there"):
        study_in(tmp_path, asked(metrics=("brightness",)))


def test_a_divergence_is_computed_once(study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figure of the whole image follows from those by scale."""
    from scalekv_core.compare import metrics

    divergence, images = metrics.divergence, []

    def counted(mine: list[torch.Tensor], *rest: list[torch.Tensor]) -> object:
        images.append(mine)
        return divergence(mine, *rest)

    monkeypatch.setattr(metrics, "divergence", counted)
    list(study_in(tmp_path).run())

    assert 6 == len(images)


def test_a_recommendation_fits(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """The best that fits; where nothing does the smallest is named."""
    study = study_in(tmp_path)
    list(study.run())
    (results,) = results_of(study.store, registry)
    most, least = (pick(results.rows, key=needed) for pick in (max, min))

    assert "full" == recommend(results, needed(most), "forced-kl").best.label
    assert least.label == recommend(results, needed(least), "forced-kl").best.label
    with pytest.raises(InputError, match=f"the smallest is '{least.label}' with .* for a batch of 1 image$"):
        recommend(results, needed(least) - 1, "forced-kl")


def test_pictures_are_kept_once_by_content(study_in: StudyIn, tmp_path: Path) -> None:
    """``full`` generates the unmodified image, which is one file."""
    study = study_in(tmp_path, asked(policies=("full",)))
    list(study.run())

    assert 2 == len(list((tmp_path / IMAGES).iterdir()))


# -- files that are not what they should be -----------------------------------------------------------------------------


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    """Nothing, text, another database: one line each."""
    with pytest.raises(InputError, match="there is no study in"):
        Store.open(tmp_path)
    (tmp_path / FILE).write_text("no database, but long enough to be looked at as one " * 50)
    with pytest.raises(Exception, match=r"cannot be used .file is not a database."):
        Store.open(tmp_path)
    (tmp_path / FILE).unlink()
    sqlite3.connect(tmp_path / FILE).execute("CREATE TABLE other (x)").connection.close()
    before = (tmp_path / FILE).read_bytes()
    for use in (Store.open, lambda folder: Store.create(folder, asked(), {})):
        with pytest.raises(InputError, match="is not a study of scalekv"):
            use(tmp_path)
    assert before == (tmp_path / FILE).read_bytes()


def test_a_study_that_cannot_be_written_is_read(study_in: StudyIn, tmp_path: Path) -> None:
    """A finished study is one file without a log, so that it can ship."""
    study = study_in(tmp_path)
    list(study.run())
    study.store.close()

    assert {FILE, IMAGES} == {file.name for file in tmp_path.iterdir()}
    assert 6 == Store.open(tmp_path).cells


def test_a_damaged_page_of_a_study_is_one_line(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """Also where the damage is found late."""
    study = study_in(tmp_path)
    list(study.run())
    study.store.close()
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))

    with pytest.raises(StudyError, match=r"study.sqlite cannot be used .*; it is damaged, or not a study of scalekv"):
        results_of(Store.open(tmp_path), registry)


def test_a_full_disk_loses_nothing_that_was_finished(
    study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what is kept; the same study goes on when there is space."""
    study = study_in(tmp_path)
    running = study.run()
    next(running)
    before = cells(tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        for file in (tmp_path / IMAGES).iterdir():
            file.unlink()
        with pytest.raises(Exception, match="No space left on device; what was finished before is in"):
            list(running)
    assert before == cells(tmp_path)
    list(study_in(tmp_path).run())
    assert 6 == cells(tmp_path)
