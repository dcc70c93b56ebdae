"""A published Infinity by name, end to end: small official files and a random T5 in, images out."""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import pytest
import torch

from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.vae import BSQVAEConfig
from scalekv_adapters.t5 import T5Encoder
from scalekv_core import calibrate, compress, load_model
from scalekv_core.cli import main
from scalekv_core.errors import CheckpointError
from tests.adapters.infinity.test_text import save_t5

SMALL = Canvas("1:1", "0.06M")


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder in which a test stores text features."""
    monkeypatch.setenv("SCALEKV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(make_infinity, make_vae, infinity_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder named infinity-2b with one of the recorded small models, which reads 16 text tokens."""
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(make_infinity("like2b").state_dict(), folder / "infinity_2b_reg.pth")
    torch.save({"vae": make_vae("like2b").state_dict()}, folder / "infinity_vae_d32reg.pth")
    save_t5(folder / "flan-t5-xl", width=256)
    config = infinity_config("like2b")
    monkeypatch.setattr(InfinityConfig, "published", classmethod(lambda cls, name: config))
    vae = make_vae("like2b").config
    monkeypatch.setattr(BSQVAEConfig, "published", classmethod(lambda cls, name: vae))
    return folder


@pytest.fixture
def model(folder: Path):
    """That model on its smallest canvas."""
    loaded = load_model("infinity-2b", weights=folder)
    loaded.set_shape(aspect=SMALL.aspect, size=SMALL.pixels)
    return loaded


def test_it_draws_what_the_prompt_says(make_infinity, model, folder: Path, tmp_path: Path) -> None:
    """The features of T5 reach the transformer of the file, also under a policy."""
    features = T5Encoder(folder / "flan-t5-xl", cache=tmp_path / "other").encode(["a cat", "a red dog"])
    how = attrs.asdict(model.sampling)
    how.pop("greedy")
    want = make_infinity("like2b").generate(PackedText.pack(features), seeds=[0, 1], canvas=SMALL, **how)
    got = model.generate(["a cat", "a red dog"], seeds=[0, 1])
    assert torch.equal(want.images, got.images)
    with compress(model, "full"):
        assert torch.equal(want.images, model.generate(["a cat", "a red dog"], seeds=[0, 1]).images)


def test_half_precision(folder: Path) -> None:
    """The blocks are in half precision, the VAE is not."""
    loaded = load_model("infinity-2b", weights=folder, dtype=torch.bfloat16)
    assert torch.bfloat16 == loaded.infinity.dtype
    assert torch.float32 == loaded.infinity.head.weight.dtype == loaded.infinity.vae.dtype


def test_profiles_beside_the_weights_are_found(model, folder: Path) -> None:
    """Each canvas finds the profile that was calibrated on it."""
    for aspect in ("1:1", "3:4"):
        model.set_shape(aspect=aspect, size="0.06M")
        with calibrate(model) as calibration:
            model.generate(["a cat"], seeds=[0])
        calibration.profile().save(folder / f"profile-{aspect.replace(':', 'x')}.safetensors")

    again = load_model("infinity-2b", weights=folder)
    assert again.profile is None  # of its own canvas there is none
    for aspect in ("3:4", "1:1"):
        again.set_shape(aspect=aspect, size="0.06M")
        assert again.schedule == again.profile.schedule


def test_converted_once_it_draws_the_same(model, folder: Path, tmp_path: Path, capsys) -> None:
    """Files written by `scalekv convert` generate the same images with the same T5."""
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(folder), "--out", str(tmp_path / "converted")])
    assert (0, "") == (stopped.value.code, capsys.readouterr().err)
    shutil.copytree(folder / "flan-t5-xl", tmp_path / "converted" / "flan-t5-xl")

    converted = load_model("infinity-2b", weights=tmp_path / "converted")
    converted.set_shape(aspect=SMALL.aspect, size=SMALL.pixels)
    want, got = (one.generate(["a cat"], seeds=[3]).images for one in (model, converted))
    assert torch.equal(want, got)


def test_an_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    """One line lists the missing files."""
    with pytest.raises(
        CheckpointError, match=r"model 'infinity-8b' lacks .*; give a folder with infinity_8b_weights, "
    ):
        load_model("infinity-8b", weights=tmp_path)


@pytest.mark.thorough
def test_from_the_command_line(folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """`scalekv generate` writes images for a prompt, a policy and a budget, and refuses a prompt that is too long in
    one line.
    """
    monkeypatch.chdir(tmp_path)
    words = [
        "--model",
        "infinity-2b",
        "--weights",
        str(folder),
        "--size",
        "0.06M",
        "--policy",
        "snapkv",
        "--budget",
        "20%",
    ]
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "a cat", *words])
    assert (0, "") == (stopped.value.code, capsys.readouterr().err)
    assert (tmp_path / "scalekv-out" / "compressed.png").is_file()
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "x" * 600, *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert (2, True) == (stopped.value.code, "a prompt has at most 512 text tokens" in line)
