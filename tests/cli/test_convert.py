"""``scalekv convert`` writes everything or nothing, what it writes loads as the source did, and mistakes end in one
line.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from scalekv_core.models.weights import writing
from scalekv_core.testing import toy


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """The weights of the toy model."""
    return toy.ToyCard().load().module.state_dict()


@pytest.fixture
def source(tmp_path: Path, state) -> Path:
    """A folder with a trainer's file of the toy model, and files that hold no weights of it."""
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save({"trainer": {"module": state}, "epoch": 3}, folder / "toy.pth")
    save_file({"lm_head": torch.zeros(1)}, folder / "other.safetensors")
    (folder / "README.md").write_text("toys")
    return folder


def same(state, path: Path) -> bool:
    """Whether a file holds exactly these tensors."""
    got = load_file(path)
    return set(state) == set(got) and all(torch.equal(state[name], got[name]) for name in state)


def test_what_is_written_is_what_was_published(run, source: Path, state) -> None:
    """Tensors are bit-equal under the module's names, with their origin; unknown files are skipped and named."""
    ran = run("convert", source, "--out", "converted")

    assert (0, "") == (ran.code, ran.err)
    assert ["toy.safetensors"] == os.listdir("converted")
    assert same(state, Path("converted/toy.safetensors"))
    with safe_open("converted/toy.safetensors", framework="pt") as file:
        assert {"format": "pt", "kind": "toy", "converted_from": "toy.pth"} == file.metadata()
    assert "toy.pth: toy, " in ran.out
    assert "left alone, since no installed model is loaded from it: other.safetensors" in " ".join(ran.out.split())


def test_it_loads_where_the_published_file_did(run, source: Path) -> None:
    """The converted file generates the same image."""
    run("convert", source / "toy.pth", "--out", "converted")
    ran = run("generate", "3", "-m", "toy-weights", "--weights", "converted/toy.safetensors", "-p", "everything")

    assert (0, "") == (ran.code, ran.err)


def test_a_dtype_can_be_chosen(run, source: Path) -> None:
    """Half precision takes half the bytes."""
    ran = run("convert", source, "--out", "half", "--dtype", "bfloat16")

    assert 0 == ran.code
    assert {torch.bfloat16} == {value.dtype for value in load_file("half/toy.safetensors").values()}


def test_nothing_is_overwritten(run, source: Path) -> None:
    """Neither an earlier conversion nor the source is overwritten."""
    assert 0 == run("convert", source, "--out", "converted").code
    again = run("convert", source, "--out", "converted")
    assert 2 == again.code
    assert "converted/toy.safetensors is already there; move it away" in again.complaint


def test_an_interruption_leaves_nothing(run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption leaves no partial file."""
    write = writing._write

    def interrupted(file, value, offset):
        if offset > 5000:
            raise KeyboardInterrupt
        return write(file, value, offset)

    monkeypatch.setattr(writing, "_write", interrupted)
    ran = run("convert", source, "--out", "converted")

    assert (130, "scalekv: interrupted; nothing was written") == (ran.code, ran.complaint)
    assert not Path("converted").exists()


def test_a_full_disk_is_told_before(run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how much is needed and how much is free."""
    usage = type("Usage", (), {"free": 1024})
    monkeypatch.setattr("scalekv_core.models.weights.conversion.shutil.disk_usage", lambda path: usage)
    ran = run("convert", source, "--out", "converted")

    assert 2 == ran.code
    assert "the converted weights take " in ran.complaint
    assert "has 1.0 KiB free" in ran.complaint
    assert not Path("converted").exists()


class Bomb:
    """An object whose unpickling calls a function."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def plant_code(path: Path) -> None:
    torch.save({"model": {}, "bomb": Bomb()}, path)


def empty(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()


def twins(path: Path) -> None:
    torch.save(torch.load(path, weights_only=True), path.with_suffix(".pt"))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate, "published/toy.pth is truncated"),
        (plant_code, "published/toy.pth was not loaded: it holds more than tensors: it asks for "),
        (
            empty,
            "published holds no weights of a known network (toy); it holds nothing; scalekv models says which files",
        ),
        (twins, "toy.pt, toy.pth in published would be written to the same file; convert one of them at a time"),
    ],
)
def test_a_mistake_is_one_line(run, source: Path, harm, message: str) -> None:
    """A mistake has exit code 2 and writes nothing."""
    harm(source / "toy.pth")
    ran = run("convert", "published", "--out", "converted")

    assert 2 == ran.code
    assert message in ran.complaint
    assert not Path("converted").exists()


def test_a_missing_source_and_an_unknown_dtype(run, source: Path) -> None:
    """Both are refused before anything is read."""
    assert "there is no checkpoint nowhere" in run("convert", "nowhere", "--out", "x").complaint
    assert "no dtype is called 'bf16'" in run("convert", "published", "--out", "x", "--dtype", "bf16").complaint
