"""``scalekv compare``, ``report`` and ``recommend`` run as commands on the toy model."""

from __future__ import annotations

import csv
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from scalekv_core.compare import plugin
from scalekv_core.plugins import registry as registries
from scalekv_core.plugins.registry import Registry
from scalekv_core.testing import toy
from tests.cli.conftest import Plugin

ASKED = ("compare", "--model", "toy", "-p", "windowed", "-p", "everything", "-b", "50%", "-b", "30%", "--prompts", "digits",
         "--batch", "5", "--metric", "agreement", "--metric", "forced-kl", "--out", "study")  # fmt: skip


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The toy plugin with the metrics that ship."""
    made = Registry.of(toy, Plugin(), plugin)
    monkeypatch.setattr(registries, "shared_registry", lambda: made)
    return made


def test_a_study_is_planned_run_and_ranked(run) -> None:
    """Output fits eighty columns with nothing on stderr, and the lossless policy comes first."""
    ran = run(*ASKED)
    lines = ran.out.splitlines()

    assert (0, "") == (ran.code, ran.err)
    assert "3 settings x 10 images = 30 cells" in ran.out
    assert 80 >= max(map(len, lines))
    ranked = [line.split() for line in lines if line.strip()[:1].isdigit() and "settings" not in line]
    assert ["everything", "windowed", "windowed"] == [words[1] for words in ranked]
    assert Path("study/study.sqlite").is_file()


@pytest.mark.parametrize(
    "command", [(*ASKED, "--out", ""), ("report", "study", "--out", "")], ids=["compare", "report"]
)
def test_an_empty_text_names_nothing_to_write(run, command: tuple[str, ...]) -> None:
    """Though it would be the current directory."""
    ran = run(*command)

    assert 2 == ran.code
    assert "is an empty text, which names nothing" in " ".join(ran.err.replace("│", " ").split())
    assert not Path("study.sqlite").exists()


def test_the_same_command_runs_nothing_twice(run) -> None:
    """A second run shows the same ranking; another question is refused with the differences."""
    first, again = run(*ASKED), run(*ASKED)
    other = run(*ASKED, "--seed", "4")
    ranked = "toy, 10 images: ranked by forced-kl"

    assert "expected time for 30 cells: known after the first cells" in first.out
    assert "finished: 30 of 30 cells" in again.out
    assert first.out.partition(ranked)[2] == again.out.partition(ranked)[2] != ""
    assert 2 == other.code
    assert "folder study holds another study" in other.complaint
    assert "seeds: [4] here, [0] there" in other.complaint


def test_a_plan_alone_makes_nothing(run) -> None:
    """--plan names settings that cannot be measured with reasons, and makes no folder."""
    ran = run(*ASKED, "--plan", "-b", "900%")

    assert 0 == ran.code
    assert "'windowed 900%' is not measured: budget 900% of history is more than the whole history" in ran.complaint
    assert not Path("study").exists()


def test_a_file_asks_and_options_win(run, tmp_path: Path) -> None:
    """The study file gives what the command line does not."""
    (tmp_path / "study.toml").write_text(
        'models = ["toy"]\npolicies = ["windowed"]\nbudgets = ["50%", "40%", "30%"]\nprompts = {toy = "digits"}\n'
    )
    ran = run("compare", "--study", "study.toml", "-b", "25%", "--plan")

    assert 0 == ran.code
    assert "1 setting x 10 images = 10 cells" in ran.out


def test_a_study_is_exported(run) -> None:
    """The export has one line for every image and metric."""
    run(*ASKED)
    assert 0 == run("compare", "--out", "study", "--export", "all.csv").code
    assert 0 == run("compare", "--out", "study", "--export", "all.jsonl").code
    with Path("all.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]

    assert 60 == len(rows) == len(lines)
    assert {"agreement", "forced-kl"} == {row["metric"] for row in rows}


def test_a_study_is_exported_as_parquet(run) -> None:
    """The same lines as JSON, in columns of numbers and text."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="extra 'parquet'")
    run(*ASKED)
    run("compare", "--out", "study", "--export", "all.jsonl")
    ran = run("compare", "--out", "study", "--export", "all.parquet")

    assert 0 == ran.code, ran.complaint
    table = parquet.read_table("all.parquet")
    assert [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()] == table.to_pylist()
    assert {"seed": "int64", "value": "double", "prompt": "string"} == {
        name: str(table.schema.field(name).type) for name in ("seed", "value", "prompt")
    }


def test_a_recommendation_names_what_fits(run) -> None:
    """It names the best setting and the second; if none fits, one line says so."""
    run(*ASKED)
    ran = run("recommend", "study", "--memory", "1GiB")

    assert 0 == ran.code
    assert "best" in ran.out
    assert "everything" in ran.out
    assert "peak: the most that the cache of a batch of 5 images took at one moment" in ran.out
    assert "no setting of this study fits into 1 B" in run("recommend", "study", "--memory", "1B").complaint
    by_another = run("recommend", "study", "--memory", "1GiB", "--metric", "psnr")
    assert "no metric of this study is called 'psnr'. Known: agreement, forced-kl" in by_another.complaint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--metric", "beauty"), "no metric is called 'beauty'"),
        (("-p", "windwed"), "no policy is called 'windwed'; did you mean 'windowed'?"),
        (("--vary", "window"), "--vary takes an option and its values"),
        (("--vary", "size=1,2"), "no policy of this study has an option 'size'"),
        (("--prompts", "none.txt"), "prompt file none.txt cannot be read: No such file or directory"),
        (("--prompts", "vat=digits"), "prompts are named for model 'vat', which is not in this study: toy"),
        (("--prompts", "toy="), "--prompts toy= names no prompts"),
        (("--engine", "warp"), "no engine is called 'warp'"),
        (("--weights", "vat=x"), "--weights 'vat=x' names model 'vat', which the study does not have"),
        (("--model", "second", "--weights", "x"), "--weights 'x': say whose, MODEL=PATH, since the study has 2 models"),
        (("--weights", "toy="), "--weights 'toy=' names no file; give MODEL=PATH"),
        (("--study", "none.toml"), "study file none.toml cannot be read: No such file or directory"),
    ],
)
def test_what_is_not_understood_is_one_line(run, changes: tuple[str, str], message: str) -> None:
    """A mistake ends in one line with exit code 2 before anything is generated."""
    ran = run(*ASKED, *changes)

    assert 2 == ran.code
    assert message in ran.complaint
    assert not Path("study").exists()


def test_a_folder_without_a_study_is_one_line(run) -> None:
    """Each command that reads a study refuses a folder without one."""
    for command in (
        ("report", "."),
        ("recommend", ".", "--memory", "1GiB"),
        ("compare", "--out", ".", "--export", "x.csv"),
    ):
        ran = run(*command)
        assert (2, True) == (ran.code, "there is no study in" in ran.complaint)


@pytest.mark.parametrize("use", [("--from", "study"), ("--export", "all.csv")], ids=["from", "export"])
@pytest.mark.parametrize(
    "asked", [("-p", "windowed"), ("--retry",), ("--plan",), ("--top-k", "3"), ("--aspect", "1:1")], ids=lambda a: a[0]
)
def test_what_measures_nothing_takes_no_question(run, use: tuple[str, str], asked: tuple[str, ...]) -> None:
    """It would be passed over in silence."""
    ran = run("compare", "--out", "all", *use, *asked)

    assert 2 == ran.code
    assert "--from and --export use what studies hold and measure nothing; leave out what is asked" in ran.complaint
    assert not Path("all").exists()


def test_an_export_that_cannot_be_written_takes_nothing(run) -> None:
    """It is refused before studies are merged."""
    run(*ASKED)
    Path("all.csv").mkdir()
    ran = run("compare", "--out", "all", "--from", "study", "--export", "all.csv")

    assert 2 == ran.code
    assert "all.csv is a directory" in ran.complaint
    assert not Path("all").exists()


def test_without_pyarrow_the_extra_is_named(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a file is made."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    run(*ASKED)
    ran = run("compare", "--out", "study", "--export", "all.parquet")

    assert 2 == ran.code
    assert "needs pyarrow, which is not installed; run: pip install 'scalekv[parquet]'" in ran.complaint
    assert not Path("all.parquet").exists()


def test_an_export_needs_a_known_suffix(run) -> None:
    """The message lists them."""
    run(*ASKED)
    ran = run("compare", "--out", "study", "--export", "study.xml")

    assert 2 == ran.code
    assert "--export writes .csv, .jsonl, .parquet, .sqlite; got study.xml" in ran.complaint


def test_a_study_of_another_version_is_refused(run) -> None:
    """And one whose record cannot be read; both before anything is changed."""
    run(*ASKED)
    with closing(sqlite3.connect("study/study.sqlite")) as db:
        db.execute("UPDATE study SET question = '{', version = 0")
        db.commit()
        assert "is a study of version 0; this scalekv reads version 1" in run("report", "study").complaint
        db.execute("UPDATE study SET version = 1")
        db.commit()

    assert "is damaged: its question cannot be read" in run("report", "study").complaint


def test_a_model_without_a_set_of_prompts_is_one_line(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no set that ships is in its language."""
    monkeypatch.setattr(toy.ToyCard, "accepts", lambda self, prompt: False)
    without = [word for word in ASKED if word not in ("--prompts", "digits")]
    ran = run(*without)

    assert 2 == ran.code
    assert "no set of prompts is in the language of model 'toy'; give --prompts FILE" in ran.complaint


def test_a_page_is_written(run) -> None:
    """The page goes into the study's folder, or to --out; several studies need --leaderboard."""
    pytest.importorskip("plotly", reason="extra 'report'")
    pytest.importorskip("jinja2", reason="extra 'report'")
    run(*ASKED)
    assert 0 == run("report", "study").code
    assert 0 == run("report", "study", "--out", "page.html").code
    assert Path("study/report.html").is_file()
    assert Path("page.html").is_file()
    Path("other").mkdir()
    run(*ASKED[:-1], "other", "-b", "20%")
    assert "several studies or --protocol need --leaderboard" in run("report", "study", "other").complaint
    assert 0 == run("report", "--leaderboard", "study", "other", "--out", "board.html").code
    assert "other" in Path("board.html").read_text(encoding="utf-8")[-200_000:]


def test_studies_are_taken_into_one(run) -> None:
    """--from takes their settings and stops, --export writes them at once; a study that differs is one line."""
    run(*ASKED)
    run(*ASKED[:-1], "other", "-b", "40%")
    ran = run("compare", "--out", "all", "--from", "study", "--from", "other", "--export", "all.sqlite")

    assert (0, "took 4 settings into all") == (ran.code, ran.out.strip())
    assert "finished: 40 of 40 cells" in run(*ASKED[:-1], "all", "-b", "40%", "--plan").out
    run(*ASKED[:-1], "third", "--seed", "4")
    assert (
        "cannot be taken into all: seeds: [4] here, [0] there"
        in run("compare", "--out", "all", "--from", "third").complaint
    )


def test_cells_that_failed_are_named_with_what_runs_them_again(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a study says so, and --retry does it."""
    from scalekv_core.compare import runner

    def failing(*_: object) -> None:
        raise RuntimeError("once")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "figures_of", failing)
        first = run(*ASKED)
    again, retried = run(*ASKED), run(*ASKED, "--retry")

    assert "30 cells failed; the same command with --retry runs them again" in first.err
    assert "30 cells failed" in again.err
    assert (0, "") == (retried.code, retried.err)
    assert "expected time for 30 cells" in retried.out
