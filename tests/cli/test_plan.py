"""``scalekv plan`` run as a command."""

from __future__ import annotations

import json

import pytest

from scalekv_core.shapes.geometry import format_bytes

ASKED = ("plan", "--model", "toy", "--policy", "windowed", "--batch", "4")


def test_a_plan_tells_every_part_beside_the_unmodified_model(run) -> None:
    """Every part stands beside the unmodified model's, on eighty columns, with nothing on stderr."""
    ran = run(*ASKED)

    assert (0, "") == (ran.code, ran.err)
    for word in ("toy under windowed, 50% of history", "4 images with guidance: 8 rows, float32", "transformer"):
        assert word in ran.out
    for part in ("cache", "scratch", "activations", "decoding the images", "peak"):
        assert any(line.startswith(part) for line in ran.out.splitlines()), part
    assert "largest" not in ran.out
    assert 80 >= max(map(len, ran.out.splitlines()))


def test_what_fits_says_how_much_more_would(run) -> None:
    """A batch that fits shows the largest batch and budget."""
    ran = run(*ASKED, "--memory", "1GiB")

    assert 0 == ran.code
    assert "fits into 1.0 GiB" in ran.out
    assert "largest batch" in ran.out
    assert "100% of history" in ran.out
    assert "fits too" in ran.out
    assert "cheapest change" not in ran.out


def test_what_does_not_fit_says_what_would(run) -> None:
    """A batch that does not fit shows suggestions and exits with 1."""
    ran = run(*ASKED, "--memory", "200 KiB")

    assert 1 == ran.code
    assert "DOES NOT FIT into 200.0 KiB" in ran.out
    assert "generate 3 images at once" in ran.out
    assert 80 >= max(map(len, ran.out.splitlines()))


def test_json_holds_all_figures(run) -> None:
    """--json has the figures of the Python interface."""
    ran = run(*ASKED, "--memory", "200KiB", "--json")
    record = json.loads(ran.out)

    assert 1 == ran.code
    assert not record["fits"]
    assert 200 * 1024 == record["memory"]
    assert 4 > record["largest_batch"] > 0
    assert record["cheapest_change"].startswith("generate ")
    assert {"transformer"} == set(record["planned"]["weights"])


def test_parts_options_and_dtype_can_be_set(run) -> None:
    """Parts, options and dtype are set as in the other commands."""
    ran = run(*ASKED, "--option", "window=3", "--dtype", "bfloat16", "--no-guidance", "--budget", "9 tokens")

    assert 0 == ran.code
    assert "4 images: 4 rows, bfloat16" in ran.out
    assert "9 tokens" in ran.out


def test_assumed_drafters_are_named(run) -> None:
    """The output says that drafters are assumed."""
    assert "assumed, not measured: layers 0" in run("plan", "--model", "toy", "--policy", "profiled").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--memory", "much"), "memory is written as 24GiB, 80GB or 512MiB; got 'much'"),
        (("--model", "toi"), "did you mean 'toy'"),
        (("--size", "1M"), "model 'toy' generates no such images: there is only one size"),
        (("--aspect", "3:4"), "there is no aspect ratio '3:4'; there is 1:1 only"),
        (("--dtype", "float8"), "no dtype is called 'float8'"),
        (("--policy", "all"), "one policy at a time"),
        (("--budget", "1%"), "the least that works here is"),
        (("--codec", "int1"), "no codec is called 'int1'"),
    ],
)
def test_mistakes_are_one_line(run, arguments: tuple[str, ...], said: str) -> None:
    """A mistake is one line on stderr with exit code 2."""
    ran = run(*ASKED, *arguments)

    assert (2, "") == (ran.code, ran.out)
    assert said in ran.complaint
    assert 1 == len(ran.complaint.strip().splitlines())


def test_the_figures_are_those_of_python(run) -> None:
    """The command and plan_memory give the same figures."""
    record = json.loads(run("plan", "--model", "toy", "--policy", "everything", "--json").out)

    assert format_bytes(record["unmodified"]["cache"]) in run("plan", "--model", "toy", "--policy", "everything").out
