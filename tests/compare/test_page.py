"""The page of a study stands alone: no network, nothing that is not a number shown as one, readable before the study ends."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import pytest

from scalekv_core.compare.page.commands import image_command, setting_command
from scalekv_core.compare.page.contents import page_of
from scalekv_core.compare.page.texts import figure_text, interval_text
from scalekv_core.compare.page.write import write_page
from scalekv_core.compare.picture_files import IMAGES
from scalekv_core.compare.ranking import Interval
from scalekv_core.compare.results import results_of
from scalekv_core.errors import InputError
from scalekv_core.plugins.registry import Registry
from tests.compare.conftest import StudyIn, asked

pytest.importorskip("plotly", reason="extra 'report'")
pytest.importorskip("jinja2", reason="extra 'report'")


@pytest.fixture
def page(study_in: StudyIn, tmp_path: Path, registry: Registry) -> str:
    """The page of a study with a varied option, a refused setting and a metric without numbers."""
    question = asked(
        policies=("full", "uniform", "snapkv"),
        budgets=("50%", "900%"),
        vary={"window": ("1", "2")},
        seeds=(0, 1),
        metrics=("psnr", "brightness", "forced-kl"),
    )
    study = study_in(tmp_path, question, command="scalekv compare --model '<toy>'")
    list(study.run())
    write_page(page_of(study.store, registry), tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def without_plotly(page: str) -> str:
    return re.sub(r"<script>(?:(?!</script>).){100000,}?</script>", "", page, flags=re.DOTALL)


def test_the_page_needs_no_network(page: str) -> None:
    """No address is loaded: no script, style, font or image from elsewhere."""
    ours = without_plotly(page)

    assert len(ours) < len(page) / 2
    assert [] == re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*", ours)
    assert "@import" not in ours


def test_the_page_says_what_was_asked_found_and_missed(page: str) -> None:
    """Names are escaped, refusals have reasons."""
    ours = without_plotly(page)

    for text in ("uniform 50%", "snapkv 50% window=2", "varied window", "uniform 900%", "more than the whole history"):
        assert text in ours
    assert "&lt;toy&gt;" in ours
    assert "<toy>" not in ours


def test_data_are_json_without_nan(page: str) -> None:
    """Infinity is a text, and what is not a number is null."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    data = json.loads(text, parse_constant=refuse)
    settings = {one["label"]: one for one in data[0]["settings"]}
    assert ["inf", "inf", "inf", 0] == settings["full"]["figures"]["psnr"]
    assert {"window": "2"} == settings["snapkv 50% window=2"]["options"]
    assert 2 == settings["full"]["figures"]["brightness"][3]
    assert "brightness: not a number" in data[0]["cells"]["reasons"][0].values()


def test_a_study_can_be_read_before_it_ends(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """With nothing, and with one cell."""
    study = study_in(tmp_path)
    assert 0 == page_of(study.store, registry).models[0]["settings"]
    next(study.run())
    write_page(page_of(study.store, registry), tmp_path / "report.html")
    assert (1, 5) == tuple(page_of(study.store, registry).models[0][name] for name in ("settings", "unfinished"))


def test_figures_by_name() -> None:
    """Never 0 or a number for what is none."""

    def of(value: float, low: float, high: float, missing: int = 0) -> tuple[str, str]:
        figure = Interval(value=value, low=low, high=high, images=3, missing=missing)
        return figure_text(figure), interval_text(figure)

    assert ("no number", "3 missing") == of(math.nan, math.nan, math.nan, 3)
    assert ("identical", "20 to ∞") == of(math.inf, 20.0, math.inf)
    assert ("0.25", "0.1 to 0.5, 1 missing") == of(0.25, 0.1, 0.5, 1)
    assert ("0.00012", "0.0001 to 0.0002") == of(0.00012, 0.0001, 0.0002)


def test_a_place_that_cannot_be_written_is_one_line(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """The study is unharmed."""
    study = study_in(tmp_path)

    with pytest.raises(InputError, match=r"report.html cannot be written: .*; the study is unchanged"):
        write_page(page_of(study.store, registry), tmp_path / "none" / "report.html")


def test_commands_repeat_what_is_shown(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """The study of one setting, and one image of it, as words that the command line takes."""
    question = asked(
        policies=("snapkv codec=int8",),
        vary={"window": ("2",)},
        budgets=("50%",),
        sampling={"greedy": True, "top_k": 3},
    )
    study = study_in(tmp_path, question)
    list(study.run())
    (results,) = results_of(study.store, registry)
    (row,) = results.rows
    alone = shlex.split(setting_command(study.store.question, "toy", row))
    image = shlex.split(image_command(study.store.question, "toy", row, "-1", 0))

    for words in (
        ["--policy", "snapkv codec=int8"],
        ["--budget", "50%"],
        ["--vary", "window=2"],
        ["--prompts", "PROMPTS.txt"],
    ):
        assert words == alone[alone.index(words[0]) :][:2]
    for words in (["--policy", "snapkv"], ["--codec", "int8"], ["--option", "window=2"], ["--top-k", "3"]):
        assert words == image[image.index(words[0]) :][:2]
    assert "--greedy" in alone


def test_a_damaged_picture_is_left_out(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """The rest of the page is there."""
    study = study_in(tmp_path)
    list(study.run())
    for file in (tmp_path / IMAGES).iterdir():
        file.write_bytes(file.read_bytes()[:40])

    assert None is page_of(study.store, registry).models[0]["sheet"]["images"][0]["unmodified"]
