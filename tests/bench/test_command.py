"""``scalekv bench`` run as a command, at tiny sizes."""

from __future__ import annotations

import json
import re
import sys

import pytest

from scalekv_core.bench import Bench, figure_of_growth, growth, read_record
from scalekv_core.bench.timing import CLOCKS
from scalekv_core.cli import main

TINY = ("--layers", "3", "--heads", "2", "--head-dim", "4", "--maps", "1,2,4,6", "--threads", "1")
ONCE = ("--repeats", "1", "--stages", "1", "--budget", "50%")


@pytest.fixture
def bench(capsys):
    """arguments -> (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main(["bench", *map(str, arguments)])
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return run


def test_the_default_contenders_are_measured_and_everything_is_said(bench, tmp_path):
    path = tmp_path / "new" / "a.json"
    code, out, err = bench(*TINY, *ONCE, "--json", path)
    assert code == 0
    assert err == ""
    for name in ("unmodified", "full", "uniform", "snapkv", "h2o", "scalekv", "released"):
        assert len(re.findall(rf"^ *{name} ", out, re.MULTILINE)) >= 4, out
    for text in (
        "assumed, not measured: drafters 0",
        "2 rows, 3 layers x 2 heads x 4",
        "layer 0 for 1",
        "6x6",
    ):
        assert text in out
    assert "MISSED" not in out
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["complete"]
    assert record["command"].startswith("scalekv bench")
    assert "torch" in record["versions"]
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
    assert max(map(len, out.splitlines())) <= 80


def test_policies_budget_options_and_the_stand_in_can_be_chosen(bench, tmp_path):
    path = tmp_path / "a.json"
    chosen = ("-p", "snapkv", "-o", "window=3", "--released", "snapkv", "--every-layer", "--stages", 0, "--rows", 1)
    code, out, _ = bench(*TINY, *ONCE[:2], "-b", "10 tokens", *chosen, "--json", path)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert code == 0
    assert "share of the time" not in out
    assert list(record["contenders"]) == ["unmodified", "snapkv", "released"]
    assert record["contenders"]["snapkv"]["budget"] == "10 tokens"
    assert "profile" not in record["settings"]
    assert "window=3" in record["contenders"]["snapkv"]["parts"]["selector"]
    assert record["settings"]["rows"] == 1
    assert [run["layer"] for run in record["contenders"]["released"]["layers_run"]] == [0, 1, 2]


def test_two_records_of_one_thing_stand_side_by_side_and_others_are_refused(bench, tmp_path):
    files = [tmp_path / f"{name}.json" for name in "abc"]
    for path, rows in zip(files, (2, 2, 1), strict=True):
        assert bench(*TINY, *ONCE, "-p", "uniform", "--rows", rows, "--json", path)[0] == 0
    code, out, _ = bench("--compare", *files[:2])
    assert code == 0
    assert re.search(r"^uniform .*%", out, re.MULTILINE)
    code, out, err = bench("--compare", files[0], files[2])
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "rows 2 / 1" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--maps", "1,2,x"), "maps are written as"),
        (("--drafters", "0,9"), "layer 9 cannot be a drafter: the model has layers 0 to 2"),
        (("--drafters", "a"), "--drafters needs layers such as 0,16"),
        (("-p", "snapkv", "--released", "scalekv"), "add --policy scalekv"),
        (("-p", "scalkv"), "did you mean 'scalekv'"),
        (("-p", "uniform", "-b", "0%"), "holds nothing"),
        (("--dtype", "float8"), "no dtype is called"),
        (("--compare", "no.json", "no.json"), "no.json cannot be read"),
    ],
)
def test_mistakes_are_one_line(bench, arguments, said):
    code, out, err = bench(*TINY, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_model_gives_its_shape(bench, tmp_path):
    path = tmp_path / "a.json"
    code, _, _ = bench("-m", "var-tiny", "-p", "uniform", *ONCE, "--threads", "1", "--json", path)
    assert code == 0
    settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
    assert settings["rows"] == 2
    assert settings["maps"].startswith("1x1 ")


def test_what_was_measured_is_shown_after_an_interruption(bench, monkeypatch, tmp_path):
    measured = Bench._measure
    left = iter(range(8))

    def interrupted(self, *arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        measured(self, *arguments)

    monkeypatch.setattr(Bench, "_measure", interrupted)
    path = tmp_path / "a.json"
    code, out, err = bench(*TINY, *ONCE, "-p", "uniform", "-p", "snapkv", "--repeats", 5, "--json", path)
    assert code == 130
    assert "cut short" in out
    assert "x unmod." in out
    assert "figures so far" in err
    assert json.loads(path.read_text(encoding="utf-8"))["complete"] is False


WHOLE = ("--whole", "-m", "var-tiny", "-p", "uniform", "--threads", "1", "--repeats", "1", "--stages", "1")


def test_a_whole_transformer_is_measured(bench, tmp_path):
    path = tmp_path / "whole.json"
    code, out, err = bench(*WHOLE, "--batch", 2, "--layers", 3, "--json", path)
    assert (code, err) == (0, "")
    assert out.startswith("\nwhole transformer of var-tiny\n")
    assert "4 rows, 3 layers x 4 heads x 32" in out
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["settings"]["measured"] == "whole transformer of var-tiny"
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--whole",), "name it with --model"),
        ((*WHOLE, "--heads", "2"), "leave out --heads"),
        ((*WHOLE, "--maps", "1,2"), "leave out --maps"),
        ((*WHOLE, "--rows", "3"), "leave out --rows"),
        (("--rows", "2", "--batch", "3"), "--rows replaces --batch; give one of them (got 2 and 3)"),
        (("--size", "1M"), "name it with --model"),
        ((*WHOLE, "--size", "1M"), "there is only one size"),
        ((*WHOLE, "--batch", "1000000"), "activations"),
        (("-p", "full", "--rows", "100000"), "queries, keys and values"),
        (("--record", "a.json"), "give both"),
        (("--plot", "a.png", "--record", "no.json"), "no.json cannot be read"),
    ],
)
def test_settings_that_cannot_be_measured_are_one_line(bench, arguments, said):
    code, out, err = bench(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_records_of_different_maps_are_plotted(bench, tmp_path):
    files = [tmp_path / f"{name}.json" for name in "abc"]
    for path, maps, rows in zip(files, ("1,2,3", "1,2,4,6", "1,2,5"), (2, 2, 1), strict=True):
        assert bench(*TINY[:6], "--maps", maps, "--rows", rows, *ONCE, "-p", "uniform", "--json", path)[0] == 0
    picture = tmp_path / "plots" / "cost.png"
    code, out, _ = bench("--plot", picture, "--record", files[1], "--record", files[0])
    assert code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "cost.png" in out.replace("\n", "")  # a long path is broken anywhere
    code, out, err = bench("--plot", picture, "--record", files[0], "--record", files[2])
    assert (code, out) == (2, "")
    assert "these records differ in maps and in rows; a plot shows how cost grows with one of them" in err
    assert "same maps" in bench("--plot", picture, "--record", files[0], "--record", files[0])[2]
    assert "two records or more" in bench("--plot", picture, "--record", files[0])[2]


def test_a_plot_without_matplotlib_names_the_extra(bench, monkeypatch, tmp_path):
    files = [tmp_path / f"{maps}.json" for maps in ("1,2,3", "1,2,4")]
    for path in files:
        bench(*TINY[:6], "--maps", path.stem, *ONCE, "-p", "uniform", "--json", path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = bench("--plot", tmp_path / "cost.png", "--record", files[0], "--record", files[1])
    assert (code, out) == (2, "")
    assert "needs matplotlib, which is not installed; run: pip install 'scalekv[plot]'" in err


def test_records_of_different_batches_are_plotted(bench, tmp_path):
    """The growing setting is found in the records; if another setting differs, the error names it."""
    files = [tmp_path / f"{name}.json" for name in "abc"]
    for path, how in zip(files, (("--batch", 4), ("--rows", 2), ("--rows", 1, "--seed", 3)), strict=True):
        assert bench(*TINY, *ONCE, *how, "-p", "uniform", "--json", path)[0] == 0
    records = [read_record(path) for path in files]
    assert [rows for rows, _, _ in growth(records[:2])["uniform"]] == [2, 8]
    figure = figure_of_growth(records[:2])
    assert ["rows of the batch"] * 2 == [axes.get_xlabel() for axes in figure.axes]
    assert "last map 6x6" in figure.get_suptitle()
    code, _, err = bench("--plot", tmp_path / "x.png", "--record", files[1], "--record", files[2])
    assert (code, "seed 0 / 3" in err or "seed 3 / 0" in err) == (2, True)


def test_growth_is_in_order_of_tokens(bench, tmp_path):
    files = [tmp_path / f"{name}.json" for name in "ab"]
    for path, maps in zip(files, ("1,2,4,6", "1,2,3"), strict=True):
        bench(*TINY[:6], "--maps", maps, *ONCE, "-p", "uniform", "--json", path)
    lines = growth([read_record(path) for path in files])
    assert set(lines) == {"unmodified", "uniform"}
    assert [tokens for tokens, _, _ in lines["uniform"]] == [14, 57]
    assert all(ratio["median"] == 1 for _, _, ratio in lines["unmodified"])


def test_times_of_zero_are_shown_and_not_plotted(bench, monkeypatch, tmp_path):
    monkeypatch.setitem(CLOCKS, "processor", lambda: 5.0)
    files = [tmp_path / f"{name}.json" for name in "ab"]
    for path, rows in zip(files, (1, 2), strict=True):
        code, out, err = bench(*TINY, *ONCE, "-p", "uniform", "--rows", rows, "--processor-time", "--json", path)
        assert (code, err) == (0, "")
        assert "no ratio: there is no round" in out
        assert "nan" not in out
    code, out, err = bench("--compare", *(files[0], files[0]))
    assert (code, err.count("\n")) == (2, 1)
    assert "time no contender in common" in err
    record = json.loads(files[0].read_text(encoding="utf-8"))
    for one in record["contenders"].values():
        one["ratio"] = one["seconds"]
    files[0].write_text(json.dumps(record), encoding="utf-8")
    code, out, err = bench("--plot", tmp_path / "x.png", "--record", files[0], "--record", files[1])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert (
        "'unmodified' took less time than the clock can measure in the record of rows 1; leave that record out" in err
    )


def test_a_narrow_terminal_cuts_no_name_and_no_figure(bench, monkeypatch):
    """If a table does not fit, each contender is printed as a block."""
    monkeypatch.setattr("scalekv_core.cli.console.out.width", 60)
    code, out, err = bench(*TINY, *ONCE)
    assert (0, "") == (code, err)
    assert "unmodified" in out
    assert "\u2026" not in out
    assert max(map(len, out.splitlines())) <= 60
