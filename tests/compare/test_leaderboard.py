"""Studies stand in one table only if they asked the same of the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalekv_core.compare.compact import located, write_compact
from scalekv_core.compare.leaderboard import check_protocol, merged, submissions
from scalekv_core.compare.page.contents import leaderboard_page
from scalekv_core.compare.results import results_of
from scalekv_core.compare.store import Store
from scalekv_core.errors import InputError
from scalekv_core.plugins.registry import Registry
from scalekv_core.testing import toy
from tests.compare.conftest import StudyIn, asked


def finished(study_in: StudyIn, folder: Path, **changes: object) -> Path:
    list(study_in(folder, asked(**changes)).run())
    return folder


def test_studies_of_one_protocol_are_ranked_together(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """Policies and budgets are theirs; each row names its study."""
    folders = [
        finished(study_in, tmp_path / "ours", policies=("uniform",)),
        finished(study_in, tmp_path / "theirs", policies=("snapkv",), budgets=("30%",)),
    ]
    found = submissions(folders, registry)
    check_protocol(found, None)
    (results,) = merged(found, registry)
    page = leaderboard_page(found, registry)

    assert [("ours", "uniform 50%"), ("ours", "uniform 20%"), ("theirs", "snapkv 30%")] == [
        (r.study, r.label) for r in results.rows
    ]
    assert 3 == page.models[0]["settings"]
    assert any(name == "theirs: device" for name, _ in page.environment)


def test_another_question_is_refused_with_what_differs(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """Other seeds are other images."""
    folders = [finished(study_in, tmp_path / "a"), finished(study_in, tmp_path / "b", seeds=(3,))]

    with pytest.raises(InputError, match=r"study 'b' cannot be compared with a: seeds: \[3\] here, \[0\] there"):
        check_protocol(submissions(folders, registry), None)


def test_a_protocol_says_what_must_be_equal(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """What it does not name is free."""
    study = finished(study_in, tmp_path / "a")
    (tmp_path / "protocol.toml").write_text('seeds = [0]\nmetrics = ["psnr", "agreement", "forced-kl"]\n')
    check_protocol(submissions([study], registry), tmp_path / "protocol.toml")
    (tmp_path / "protocol.toml").write_text("seeds = [0, 1]\n")

    with pytest.raises(
        InputError, match=r"study 'a' cannot be compared with .*protocol.toml: seeds: \[0\] here, \[0, 1\] there"
    ):
        check_protocol(submissions([study], registry), tmp_path / "protocol.toml")


def test_two_studies_of_one_name_are_refused(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """The name is what tells them apart on the page."""
    folders = [finished(study_in, tmp_path / "x" / "study"), finished(study_in, tmp_path / "y" / "study")]

    with pytest.raises(InputError, match="two studies are called 'study'"):
        submissions(folders, registry)


def test_other_weights_or_profiles_are_refused(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """They are other models, whatever they are called."""
    folders = [finished(study_in, tmp_path / "a"), finished(study_in, tmp_path / "b")]
    for part in ("weights", "profiles"):
        found = submissions(folders, registry)
        known = found[1].store.environment | {part: {"toy": "sha256:other"}}
        before = json.dumps(found[1].store.environment)
        found[1].store.db.execute("UPDATE study SET environment = ?", (json.dumps(known),))
        with pytest.raises(
            InputError, match=rf"study 'b' cannot be compared with a: {part} \(toy\): 'sha256:other' here"
        ):
            check_protocol(found, None)
        found[1].store.db.execute("UPDATE study SET environment = ?", (before,))


def test_a_submission_can_be_one_file(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """The compact copy has the figures of every image, and means by scale; its name is that of the entry."""
    folder = finished(study_in, tmp_path / "ours", policies=("uniform", "snapkv"))
    write_compact(Store.open(folder), tmp_path / "theirs.sqlite")
    found = submissions([folder, tmp_path / "theirs.sqlite"], registry)
    check_protocol(found, None)
    (results,) = merged(found, registry)
    whole, compact = results.rows[:4], results.rows[4:]

    assert ["ours"] * 4 + ["theirs"] * 4 == [row.study for row in results.rows]
    for mine, theirs in zip(whole, compact, strict=True):
        assert mine.label == theirs.label
        assert {n: a.tolist() for n, a in mine.figures.items()} == {n: a.tolist() for n, a in theirs.figures.items()}
        assert mine.scales["forced-kl"] == pytest.approx(theirs.scales["forced-kl"])
        assert (mine.peak_bytes, mine.planned_bytes) == (theirs.peak_bytes, theirs.planned_bytes)
        assert [None, None] == theirs.files
    assert ["theirs.sqlite"] == [file.name for file in tmp_path.iterdir() if file.is_file()]


def test_a_compact_copy_is_read_where_nothing_can_be_written(
    study_in: StudyIn, tmp_path: Path, registry: Registry
) -> None:
    """Reading changes neither the file nor what lies beside it."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    write_compact(Store.open(finished(study_in, tmp_path / "ours")), folder / "study.sqlite")
    before = (folder / "study.sqlite").read_bytes()
    results_of(Store.open(folder), registry)

    assert before == (folder / "study.sqlite").read_bytes()
    assert ["study.sqlite"] == [file.name for file in folder.iterdir()]


def test_a_model_stands_for_the_study_that_ships_with_it(
    study_in: StudyIn, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that name wins; where neither is there the models are named."""
    monkeypatch.chdir(tmp_path)
    write_compact(Store.open(finished(study_in, tmp_path / "ours")), tmp_path / "shipped.sqlite")
    with pytest.raises(InputError, match=r"there is no study in toy: .*; make one with scalekv compare$"):
        located(Path("toy"), registry)
    monkeypatch.setattr(toy.ToyCard, "study", tmp_path / "shipped.sqlite", raising=False)

    assert tmp_path / "shipped.sqlite" == located(Path("toy"), registry)
    assert "toy" == submissions([Path("toy")], registry)[0].name
    with pytest.raises(InputError, match="or name a model that ships with one: toy"):
        located(Path("tot"), registry)
