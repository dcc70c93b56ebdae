"""Studies stand in one table only if they asked the same of the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv_core.compare.leaderboard import check_protocol, merged, submissions
from scalekv_core.compare.page.contents import leaderboard_page
from scalekv_core.errors import InputError
from scalekv_core.plugins.registry import Registry
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
    found = submissions(folders)
    check_protocol(found, None)
    (results,) = merged(found, registry)
    page = leaderboard_page(found, registry)

    assert [("ours", "uniform 50%"), ("ours", "uniform 20%"), ("theirs", "snapkv 30%")] == [
        (r.study, r.label) for r in results.rows
    ]
    assert 3 == len(page.models[0]["rows"])
    assert any(name == "theirs: device" for name, _ in page.environment)


def test_another_question_is_refused_with_what_differs(study_in: StudyIn, tmp_path: Path) -> None:
    """Other seeds are other images."""
    folders = [finished(study_in, tmp_path / "a"), finished(study_in, tmp_path / "b", seeds=(3,))]

    with pytest.raises(InputError, match=r"study 'b' cannot stand beside a: seeds: \[3\] here, \[0\] there"):
        check_protocol(submissions(folders), None)


def test_a_protocol_says_what_must_be_equal(study_in: StudyIn, tmp_path: Path) -> None:
    """What it does not name is free."""
    study = finished(study_in, tmp_path / "a")
    (tmp_path / "protocol.toml").write_text('seeds = [0]\nmetrics = ["psnr", "agreement", "forced-kl"]\n')
    check_protocol(submissions([study]), tmp_path / "protocol.toml")
    (tmp_path / "protocol.toml").write_text("seeds = [0, 1]\n")

    with pytest.raises(
        InputError, match=r"study 'a' cannot stand beside .*protocol.toml: seeds: \[0\] here, \[0, 1\] there"
    ):
        check_protocol(submissions([study]), tmp_path / "protocol.toml")


def test_two_studies_of_one_name_are_refused(study_in: StudyIn, tmp_path: Path) -> None:
    """The name is what tells them apart on the page."""
    folders = [finished(study_in, tmp_path / "x" / "study"), finished(study_in, tmp_path / "y" / "study")]

    with pytest.raises(InputError, match="two studies are called 'study'"):
        submissions(folders)
