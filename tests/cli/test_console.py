"""Tables on narrow terminals lose nothing, and a full output device ends in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scalekv_core.cli import console, main
from scalekv_core.cli.writing import written_together
from scalekv_core.testing import toy


@pytest.fixture(params=[30, 40, 60, 80])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Sets the columns of the terminal."""
    monkeypatch.setattr(console.out, "_width", request.param)
    return request.param


def test_no_cell_of_a_table_is_cut(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    """If the columns do not fit, each row is printed as a block with whole names and units."""
    made = console.table("policy", "planned", "of unmodified", text=("policy",))
    console.row(made, "scalekv-reference", "1023.9 KiB", "50.9%")
    console.show(made)
    printed = capsys.readouterr().out

    assert width >= max(len(line) for line in printed.splitlines())
    assert all(text in printed for text in ("scalekv-reference", "1023.9 KiB", "50.9%", "of unmodified"))


@pytest.mark.parametrize("columns", [40, 60])
def test_a_narrow_terminal_loses_no_policy_and_no_unit(run, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """The tables of several policies lose nothing."""
    monkeypatch.setattr(console.out, "_width", columns)
    words = run("generate", "3", "--model", "toy", "-p", "windowed", "-p", "everything").out.split()

    assert 2 <= words.count("windowed")
    assert not [word for word in words if "…" in word]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["plugins"]])
def test_a_full_output_is_one_line(arguments: list[str]) -> None:
    """There is no traceback, also not from Python's last flush."""
    with open("/dev/full", "w") as full:
        ran = subprocess.run([sys.executable, "-m", "scalekv_core", *arguments], stdout=full, stderr=subprocess.PIPE)

    assert (2, b"scalekv: cannot print (No space left on device)\n") == (ran.returncode, ran.stderr)


def test_what_is_kept_is_told_when_nothing_can_be_printed(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are written before figures are printed, and the error says so."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(console.out, "print", full)
    ran = run("generate", "3", "--model", "toy", "-p", "windowed")

    assert "scalekv: cannot print (No space left on device); the pictures are in scalekv-out" == ran.complaint
    assert Path("scalekv-out/record.json").is_file()


def test_an_ascii_locale_escapes_what_it_cannot_hold(tmp_path: Path) -> None:
    """Letters outside of the locale are printed as escapes and written to files as they are."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "scalekv_core", "new-plugin", "mine", "--into", "zürich"]
    ran = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment)

    assert (0, b"") == (ran.returncode, ran.stderr)
    assert (tmp_path / "zürich" / "scalekv-mine").is_dir()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ImportError("numpy is half loaded")])
def test_an_interrupted_import_is_an_interruption(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """An error of a half-loaded module after Ctrl-C counts as an interruption."""

    def interrupted(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr("scalekv_core.cli.application.make_app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["policies"])

    assert 130 == ended.value.code


def test_an_interrupt_that_somebody_swallows_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before work begins and before files are written: a library may keep the exception while it is imported."""
    reached: list[str] = []

    def swallowing(*_: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), written_together(tmp_path / "out") as stage:
            (stage / "picture.png").touch()
        reached.append("files")
        with console.busy("generating"):
            reached.append("work")

    monkeypatch.setattr("scalekv_core.cli.application.make_app", swallowing)
    with pytest.raises(SystemExit) as ended:
        main(["policies"])

    assert (130, ["files"], []) == (ended.value.code, reached, list(tmp_path.iterdir()))


@pytest.mark.parametrize("given", ["a\nb", "a\x1b[2Jb", "a\r\tb", "a\u2028b"])
def test_a_complaint_is_one_line(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in a path or a prompt: a program reads one line for one mistake, and no terminal is cleared."""
    console.complain(f"model 'toy' lacks {given}")
    printed = capsys.readouterr().err

    assert f"scalekv: model 'toy' lacks {given.encode('unicode_escape').decode()}\n" == printed


def test_a_folder_that_may_not_be_entered_is_one_line(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of any command, exit code 2; a plugin's card that lets an OSError through is one of the mistakes of a user."""

    def load(card: toy.ToyCard, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "t5"))

    monkeypatch.setattr(toy.ToyCard, "load", load)
    result = run("generate", "3", "--model", "toy", "-p", "windowed")

    assert 2 == result.code

    assert f"scalekv: model 'toy': {tmp_path}/t5 cannot be read (Permission denied)" == result.err.strip()
