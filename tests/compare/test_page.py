"""The page of a study stands alone: no network, nothing that is not a number shown as one, readable before the study ends."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scalekv_core.compare.page.contents import figure_text, interval_text, page_of
from scalekv_core.compare.page.write import write_page
from scalekv_core.compare.ranking import Interval
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
    """Infinity and not-a-number are null."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    data = json.loads(text, parse_constant=refuse)
    settings = {one["label"]: one for one in data["models"][0]["settings"]}
    assert [None, None, None] == settings["full"]["figures"]["psnr"]
    assert {"window": "2"} == settings["snapkv 50% window=2"]["options"]


def test_a_study_can_be_read_before_it_ends(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """With nothing, and with one cell."""
    study = study_in(tmp_path)
    assert [] == page_of(study.store, registry).models[0]["rows"]
    next(study.run())
    write_page(page_of(study.store, registry), tmp_path / "report.html")
    assert 1 == len(page_of(study.store, registry).models[0]["rows"])


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


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_a_browser_draws_sorts_and_filters(page: str, tmp_path: Path) -> None:
    """In Chromium: plots are drawn, a click sorts, a word filters, and the console has no errors."""
    steps = """
    window.addEventListener("load", () => {
      const section = document.querySelector("section"), table = section.querySelector("table[data-role=settings]");
      const names = () => [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.dataset.text);
      const before = names();
      table.tHead.rows[0].cells[1].querySelector("button").click();
      const sorted = names();
      table.tHead.rows[0].cells[1].querySelector("button").click();
      const reversed = names();
      const filter = section.querySelector("[data-role=filter]");
      filter.value = "snapkv window=2"; filter.dispatchEvent(new Event("input"));
      document.title = JSON.stringify({before, sorted, reversed, filtered: names(), errors: window.failures,
        plots: section.querySelectorAll(".plot .main-svg").length > 0});
    });
    """
    watch = (
        '<script>window.failures = []; window.addEventListener("error", e => window.failures.push(e.message));</script>'
    )
    file = tmp_path / "driven.html"
    file.write_text(page.replace("<head>", f"<head>{watch}").replace("</body>", f"<script>{steps}</script></body>"))
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
    shown = subprocess.run([*browser, file.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    (title,) = re.findall(r"<title>(\{.*?\})</title>", shown)
    found = json.loads(title)

    assert [] == found["errors"]
    assert found["plots"]
    assert sorted(found["before"]) == found["sorted"] == found["reversed"][::-1]
    assert ["snapkv 50% window=2"] == found["filtered"]
