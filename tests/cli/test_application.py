"""The application around the commands: help, version, and how a process ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scalekv_core.cli.application import COMMANDS


def test_as_a_module() -> None:
    """``python -m scalekv_core`` is the same command, where no script is on the path."""
    ran = subprocess.run(
        [sys.executable, "-m", "scalekv_core", "--version"], capture_output=True, text=True, check=True
    )

    assert ran.stdout.startswith("scalekv ")


def test_version(run) -> None:
    """Name and number."""
    ran = run("--version")

    assert 0 == ran.code
    assert ran.out.startswith("scalekv ")


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_fits_eighty_columns(run, arguments: list[str]) -> None:
    """Every help page, and every command has a sentence."""
    ran = run(*arguments)

    assert 0 == ran.code
    assert 80 >= max(len(line) for line in ran.out.splitlines())


def test_no_arguments_shows_the_help(run) -> None:
    """A person who types only the name is told what there is."""
    ran = run()

    assert all(name in ran.out + ran.err for name in COMMANDS)


def test_an_unknown_command(run) -> None:
    """A usage error."""
    ran = run("genrate")

    assert 2 == ran.code
    assert "genrate" in ran.err


def test_help_imports_nothing_slow() -> None:
    """torch, plots and the models are imported when they are needed."""
    code = (
        "import sys; from scalekv_core.cli.application import make_app; make_app(); "
        "print([n for n in ('torch', 'numpy', 'matplotlib', 'scalekv_policies', 'scalekv_adapters') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == ran.stdout.strip()
