"""Files are written together or not at all, and errors say what is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from scalekv_core.cli import writing
from scalekv_core.cli.writing import WritingError, check_directory, check_files, written_together
from scalekv_core.errors import InputError
from scalekv_core.testing import toy

TOY = ("generate", "3", "--model", "toy", "--policy", "windowed")


def listing(folder: Path) -> dict[str, str]:
    """{name: text} of the files in a folder."""
    return {file.name: file.read_text() for file in sorted(folder.iterdir())}


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """A folder with a record and an image of an earlier run, and an unrelated file."""
    (tmp_path / "a.png").write_text("old a")
    (tmp_path / "b.png").write_text("old b")
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "record.json").write_text(json.dumps({"files": ["a.png", "b.png", "record.json", "../x", 3]}))
    return tmp_path


def write(folder: Path) -> None:
    """A run that writes a.png and its record."""
    with written_together(folder, listed_in="record.json") as stage:
        (stage / "a.png").write_text("new a")
        (stage / "record.json").write_text("new record")


def test_no_picture_of_an_earlier_run_stays_beside_a_new_record(former: Path) -> None:
    """Files of the old record are replaced or removed; other files stay."""
    write(former)

    assert {"a.png": "new a", "notes": "mine", "record.json": "new record"} == listing(former)


def test_a_record_that_is_no_record_lists_nothing(former: Path) -> None:
    """A broken old record removes nothing."""
    (former / "record.json").write_text("[1]")
    write(former)

    assert "old b" == listing(former)["b.png"]


@pytest.mark.parametrize("at", range(5))
def test_a_full_disk_leaves_everything_as_it_was(former: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A failure at any step leaves the old files and none of the new ones."""
    before, replace, calls = listing(former), os.replace, iter(range(100))

    def failing(source: Path, target: Path) -> None:
        if next(calls) == at and "former-" not in str(source):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(
        WritingError, match="No space left on device; nothing was written, and what was there is unchanged"
    ):
        write(former)

    assert before == listing(former)


def test_a_failure_while_the_files_are_made_leaves_no_folder(tmp_path: Path) -> None:
    """A failure leaves neither the scratch directory nor new folders."""
    with pytest.raises(WritingError, match="No space left"), written_together(tmp_path / "x" / "y"):
        raise OSError(28, "No space left on device")

    assert [] == list(tmp_path.iterdir())


def test_what_is_in_the_way_is_refused_before(tmp_path: Path) -> None:
    """A directory with a file's name, and a file with the directory's name, are refused."""
    (tmp_path / "record.json").mkdir()

    with pytest.raises(InputError, match=r"cannot write the file .*record.json: it is a directory"):
        check_files(tmp_path, ["a.png", "record.json"])
    with pytest.raises(InputError, match="is a file"):
        check_directory(Path(__file__) / "below")


def test_a_full_disk_is_noticed_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial block is written and removed before generation."""
    check_directory(tmp_path / "new")
    assert [] == list(tmp_path.iterdir())

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match="No space left on device"):
        check_directory(tmp_path)


class TestGenerate:
    def test_is_refused_before_anything_is_generated(self, run, monkeypatch: pytest.MonkeyPatch) -> None:
        """A directory with the record's name is refused before generation."""
        Path("scalekv-out/record.json").mkdir(parents=True)
        monkeypatch.setattr(toy.ToyCard, "load", lambda *_, **__: pytest.fail("a model was loaded"))
        ran = run(*TOY)

        assert 2 == ran.code
        assert "cannot write the file scalekv-out/record.json: it is a directory" in ran.complaint

    def test_a_full_disk_after_generating_is_one_line(self, run, monkeypatch: pytest.MonkeyPatch) -> None:
        """One line says that nothing was written."""

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("PIL.Image.Image.save", full)
        ran = run(*TOY)

        assert 2 == ran.code
        assert ran.complaint.endswith("No space left on device; nothing was written, and what was there is unchanged")
        assert not Path("scalekv-out").exists()

    def test_another_run_replaces_all_of_the_first(self, run) -> None:
        """A run with one policy removes the images of an earlier run with several."""
        run(*TOY, "--policy", "everything")
        assert Path("scalekv-out/policies.png").is_file()
        run(*TOY)

        record = json.loads(Path("scalekv-out/record.json").read_text())
        assert sorted(record["files"]) == sorted(file.name for file in Path("scalekv-out").iterdir())

    @pytest.mark.parametrize("command", ["generate", "explain"])
    def test_an_empty_out_is_no_directory(self, run, command: str) -> None:
        """An empty --out is refused."""
        ran = run(command, "3", "--out", "")

        assert 2 == ran.code
        assert (
            ran.complaint
            == "scalekv: --out is an empty text, which names nothing; write . for the current directory, or leave it out"
        )
