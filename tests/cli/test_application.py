"""The application around the commands: help, version, and how a process ends."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import typer

from scalekv_core.cli.application import COMMANDS, make_app


def test_as_a_module() -> None:
    """``python -m scalekv_core`` is the same command."""
    ran = subprocess.run(
        [sys.executable, "-m", "scalekv_core", "--version"], capture_output=True, text=True, check=True
    )

    assert ran.stdout.startswith("scalekv ")


def test_version(run) -> None:
    """--version prints name and number."""
    ran = run("--version")

    assert 0 == ran.code
    assert ran.out.startswith("scalekv ")


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_fits_eighty_columns(run, arguments: list[str]) -> None:
    """Every help page fits, and describes every command."""
    ran = run(*arguments)

    assert 0 == ran.code
    lines = ran.out.splitlines()
    assert 80 >= max(len(line) for line in lines)
    prose = [line.rstrip() for line in lines[: next(i for i, line in enumerate(lines) if "─" in line)]]
    broken = [a for a, b in pairwise(prose) if a and b.strip() and len(a) + len(b.split()[0]) < 79]
    assert [] == broken, "a line breaks though the next word fits"


def test_no_arguments_shows_the_help(run) -> None:
    """The name alone prints the help."""
    ran = run()

    assert all(name in ran.out + ran.err for name in COMMANDS)


def test_an_unknown_command(run) -> None:
    """An unknown command is a usage error."""
    ran = run("genrate")

    assert 2 == ran.code
    assert "genrate" in ran.err


def test_help_imports_nothing_slow() -> None:
    """Help pages import neither torch nor matplotlib nor a model."""
    code = (
        "import sys; from scalekv_core.cli.application import make_app; make_app(); "
        "print([n for n in ('torch', 'numpy', 'matplotlib', 'scalekv_policies', 'scalekv_adapters') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == ran.stdout.strip()


def _wants_text(parameter: Any) -> bool:
    """Whether a parameter takes a word: no flag, and no prompt, which may be empty."""
    return not getattr(parameter, "is_flag", False) and parameter.name not in ("prompt", "prompts", "help")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_text_is_refused_everywhere(run, command: str) -> None:
    """No option and no argument takes an empty text for the current directory, or for its default."""
    group: Any = typer.main.get_command(make_app((command,)))
    for parameter in filter(_wants_text, group.commands[command].params):
        values = [""] * (parameter.nargs if parameter.nargs > 0 else 1)
        ran = run(command, *([parameter.opts[0]] if parameter.param_type_name == "option" else []), *values)

        assert 2 == ran.code
        assert "is an empty text, which names nothing" in ran.complaint, parameter.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--model"],
        ["plan", "--policy"],
        ["generate", "--selector"],
        ["bench", "--json", "/tmp", "--policy"],
        [],
    ],
)
def test_a_long_name_is_not_repeated_at_length(run, arguments: list[str]) -> None:
    """A name of 5,000 letters is abbreviated in every message."""
    ran = run(*arguments, "m" * 5000)

    assert 2 == ran.code
    assert 1000 > len(ran.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "--json"],
        ["bench", "--launches", "--json"],
        ["bench", "--plot"],
        ["report", "none", "--out"],
        ["compare", "--export"],
    ],
)
def test_a_directory_is_no_file_to_write(run, arguments: list[str]) -> None:
    """It is refused before anything is measured or read."""
    ran = run(*arguments, ".")

    assert 2 == ran.code
    assert ran.complaint.endswith("needs the name of a file; . is a directory")
