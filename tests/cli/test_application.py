"""The application around the commands: help, version, and how a process ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scalekv_core.cli.application import COMMANDS


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
    assert 80 >= max(len(line) for line in ran.out.splitlines())


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
