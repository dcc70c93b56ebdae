"""A study takes further settings of the same question, asked for or measured elsewhere, and loses none."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from scalekv_core.compare import runner
from scalekv_core.compare.compact import write_compact
from scalekv_core.compare.merge import take
from scalekv_core.compare.pair_metrics import PSNR
from scalekv_core.compare.results import results_of
from scalekv_core.compare.state import cells_left, failures, metric_gaps
from scalekv_core.compare.store import Store
from scalekv_core.errors import InputError
from scalekv_core.planning.planner import Planned
from scalekv_core.plugins.registry import Registry
from tests.compare.conftest import StudyIn, asked, planned

SMALL = {"policies": ("uniform",), "budgets": ("50%",)}


def finished(study_in: StudyIn, folder: Path, **changes: object) -> Path:
    study = study_in(folder, asked(**changes))
    list(study.run())
    study.store.close()
    return folder


@pytest.mark.parametrize(
    "more",
    [
        {"policies": ("full", "uniform")},
        {"budgets": ("20%", "50%")},
        {"policies": ("uniform", "snapkv"), "budgets": ("50%", "30%")},
    ],
)
def test_more_settings_add_what_is_missing(study_in: StudyIn, tmp_path: Path, more: dict[str, object]) -> None:
    """Finished cells stay, new settings are run, and the study asks for all of them from then on."""
    finished(study_in, tmp_path, **SMALL)
    before = Store.open(tmp_path).rows("SELECT id, finished, worker FROM cell ORDER BY id")
    grown = study_in(tmp_path, asked(**{**SMALL, **more}))
    missing = grown.missing()
    ran = list(grown.run())

    assert grown.plan.cells - 2 == missing == len(ran)
    assert 0 == grown.missing()
    assert before == grown.store.rows("SELECT id, finished, worker FROM cell ORDER BY id")[: len(before)]
    assert grown.plan.question.as_dict() == grown.store.question


def test_further_values_of_a_varied_option_and_codecs_are_added(study_in: StudyIn, tmp_path: Path) -> None:
    """Options that were not varied before, and codecs where each policy had its own, are other settings."""
    some = {"policies": ("snapkv",), "budgets": ("50%",)}
    finished(study_in, tmp_path, **some, codecs=("dense",), vary={"window": ("4",)})
    more = study_in(tmp_path, asked(**some, codecs=("dense", "int8"), vary={"window": ("4", "8")}))

    assert 6 == more.missing()
    with pytest.raises(
        InputError,
        match=r"vary \(window\): none here, \['4', '8'\] there; setting 'snapkv 50% dense window=4': not asked for here",
    ):
        study_in(tmp_path, asked(**some, codecs=("dense", "int8")))


def test_fewer_settings_are_refused_with_the_difference(study_in: StudyIn, tmp_path: Path) -> None:
    """A study cannot shrink; what was there is as before."""
    finished(study_in, tmp_path)
    before = Store.open(tmp_path).question

    with pytest.raises(InputError, match=r"policies: \['uniform'\] here, \['full', 'uniform'\] there; setting 'full'"):
        study_in(tmp_path, asked(policies=("uniform",)))
    assert before == Store.open(tmp_path).question


@pytest.mark.parametrize("other", [{"seeds": (0, 1)}, {"metrics": ("psnr",)}, {"prompts": {"toy": ("0",)}}])
def test_all_else_must_be_equal(study_in: StudyIn, tmp_path: Path, other: dict[str, object]) -> None:
    """Further settings do not excuse other images or other metrics."""
    finished(study_in, tmp_path, **SMALL)

    with pytest.raises(InputError, match=rf"differs in {next(iter(other))}( \(toy\))?: "):
        study_in(tmp_path, asked(**other))
    assert ["uniform 50%"] == list(Store.open(tmp_path).labels.values())


def test_two_processes_grow_one_study(study_in: StudyIn, tmp_path: Path) -> None:
    """One runs the small question while another has let the study grow: each ends with its own cells, none twice."""
    small = study_in(tmp_path, asked(**SMALL))
    running = small.run()
    next(running)
    grown = study_in(tmp_path)
    list(grown.run())
    list(running)

    assert (0, 0) == (small.missing(), grown.missing())
    assert (2, 6) == (small.done, grown.done)
    assert 6 == grown.store.cells


def test_the_last_of_two_that_begin_at_once_is_no_smaller(registry: Registry, tmp_path: Path) -> None:
    """Whichever comes first, the study holds all settings, or the smaller question is refused."""
    # Loaded before: two threads that load the toy at once would give it other weights.
    studies = [planned(asked(**SMALL), registry), planned(asked(), registry)]
    refused: list[str] = []

    def begin(number: int) -> None:
        try:
            studies[number](tmp_path).store.close()
        except InputError as error:
            refused.append(str(error))

    both = [threading.Thread(target=begin, args=(number,)) for number in (0, 1)]
    for one in both:
        one.start()
    for one in both:
        one.join()

    assert {"full", "uniform 50%", "uniform 20%"} == set(Store.open(tmp_path).labels.values())
    assert all("uniform" in said for said in refused)


# -- merging ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compact", [False, True])
def test_settings_of_another_study_are_taken(
    study_in: StudyIn, tmp_path: Path, registry: Registry, compact: bool
) -> None:
    """Figures, means by scale and sizes are those of the two, and their union asks for them; a second time takes nothing."""
    one = finished(study_in, tmp_path / "one", **SMALL)
    other = finished(study_in, tmp_path / "other", policies=("snapkv",), budgets=("50%",))
    if compact:
        write_compact(Store.open(one), tmp_path / "one.sqlite")
        one = tmp_path / "one.sqlite"
    parts = [results_of(Store.open(study), registry)[0].rows[0] for study in (one, other)]
    taken = [take(tmp_path / "all", [Store.open(one), Store.open(other)]) for _ in range(2)]
    store = Store.open(tmp_path / "all")
    (results,) = results_of(store, registry)

    assert [2, 0] == taken
    assert ["uniform", "snapkv"] == store.question["policies"]
    assert all(file and file.is_file() for file in results.baseline)
    for row, part in zip(results.rows, parts, strict=True):
        assert {n: v.tolist() for n, v in part.figures.items()} == {n: v.tolist() for n, v in row.figures.items()}
        assert (part.label, part.peak_bytes, part.planned_bytes) == (row.label, row.peak_bytes, row.planned_bytes)
        assert part.scales == row.scales != {}
    assert 0 == study_in(tmp_path / "all", asked(policies=("uniform", "snapkv"), budgets=("50%",))).missing()


def test_a_merged_study_has_a_compact_copy(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """Means by scale of what was compact already are kept beside those of what was not."""
    write_compact(Store.open(finished(study_in, tmp_path / "one", **SMALL)), tmp_path / "one.sqlite")
    other = finished(study_in, tmp_path / "other", policies=("snapkv",), budgets=("50%",))
    take(tmp_path / "all", [Store.open(tmp_path / "one.sqlite"), Store.open(other)])
    write_compact(Store.open(tmp_path / "all"), tmp_path / "all.sqlite")
    rows = [results_of(Store.open(study), registry)[0].rows for study in (tmp_path / "all", tmp_path / "all.sqlite")]

    assert 2 == len(rows[0]) == len(rows[1])
    assert [row.scales["forced-kl"] for row in rows[0]] == [pytest.approx(row.scales["forced-kl"]) for row in rows[1]]


def test_another_protocol_or_environment_is_not_taken(study_in: StudyIn, tmp_path: Path) -> None:
    """The difference is named, and nothing of the other study is there."""
    one = finished(study_in, tmp_path / "one", **SMALL)
    take(tmp_path / "all", [Store.open(one)])
    seeds = finished(study_in, tmp_path / "seeds", policies=("snapkv",), seeds=(3,))
    device = finished(study_in, tmp_path / "device", policies=("snapkv",))
    varied = finished(study_in, tmp_path / "varied", policies=("snapkv",), vary={"window": ("4",)})
    store = Store.open(device)
    store.db.execute("UPDATE study SET environment = ?", (json.dumps(store.environment | {"device": "another"}),))

    for study, said in (
        (seeds, r"seeds: \[3\] here, \[0\] there"),
        (device, "device: 'another' here"),
        (varied, r"varied options: \['window'\] here, \[\] there"),
    ):
        with pytest.raises(InputError, match=rf"cannot be taken into .*all: {said}"):
            take(tmp_path / "all", [Store.open(study)])
    assert ["uniform 50%"] == list(Store.open(tmp_path / "all").labels.values())


# -- cells that failed --------------------------------------------------------------------------------------------------


def test_cells_that_failed_run_again_when_asked_to(
    study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by themselves, and the others are not touched."""
    compress = runner.compress
    tried = []

    def failing(model: object, plan: Planned, **how: object) -> object:
        if "20%" in str(plan.budget) and "clock" not in how and "measure_peak" not in how:
            tried.append(plan)
            if len(tried) == 1:
                raise RuntimeError("once")
        return compress(model, plan, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "compress", failing)
    list(study_in(tmp_path).run())
    study = study_in(tmp_path)

    assert [("uniform 20%", "RuntimeError: once", 1)] == failures(study.store)
    assert [] == list(study.run())
    assert {"toy": 1} == cells_left(study.plan, study.store, retry=True)
    assert 1 == study.retry() == study.missing()
    assert 1 == len(list(study.run()))
    assert [] == failures(study.store)
    assert 6 == study.store.cells


def test_a_figure_whose_metric_raised_is_computed_again_when_asked_to(
    study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the model has no number for stays: another try computes the same."""
    question = asked(**SMALL, seeds=(0, 1), metrics=("brightness", "psnr"))
    with monkeypatch.context() as patch:
        patch.setattr(PSNR, "measure", lambda *_: 1 / 0)
        list(study_in(tmp_path, question).run())
    study = study_in(tmp_path, question)

    assert [] == list(study.run())
    assert [
        ("psnr", "ZeroDivisionError: division by zero", 1, 4, True), ("brightness", "not a number", 1, 2, False),
    ] == metric_gaps(study.store)  # fmt: skip
    assert {"toy": 4} == cells_left(study.plan, study.store, retry=True)
    assert 4 == study.retry() == len(list(study.run()))
    assert [("brightness", "not a number", 1, 2, False)] == metric_gaps(study.store)
    assert 0 == study.retry()
