"""A published Infinity by name: which files it consists of, published or converted, and the errors for missing ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from scalekv_adapters.infinity import files
from scalekv_adapters.infinity.config import PUBLISHED
from scalekv_adapters.infinity.files import FILES, Parts, folder_for, load_parts, parts_of
from scalekv_core.errors import CheckpointError, MissingExtra


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with empty files under the names of the 2B model."""
    for name in ("infinity_2b_reg.pth", "infinity_vae_d32reg.pth"):
        (tmp_path / name).touch()
    (tmp_path / "flan-t5-xl").mkdir()
    return tmp_path


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    """The message, if it is of one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_published_model_has_files() -> None:
    """Every published model has a list of files and a text that names them."""
    assert set(PUBLISHED) == set(FILES)
    assert all(FILES[name].transformer in folder_for(name) for name in FILES)


def test_parts_are_found_under_their_official_names(folder: Path) -> None:
    """The parts are found in the folder, or beside the transformer if that file is given."""
    want = Parts(
        transformer=folder / "infinity_2b_reg.pth", vae=folder / "infinity_vae_d32reg.pth", t5=folder / "flan-t5-xl"
    )
    assert want == parts_of("infinity-2b", folder)
    assert want == parts_of("infinity-2b", folder / "infinity_2b_reg.pth")


def test_parts_are_found_under_their_other_names(folder: Path) -> None:
    """The VAE and T5's folder are also found under the other names of the official scripts."""
    (folder / "infinity_vae_d32reg.pth").rename(folder / "infinity_vae_d32_reg.pth")
    (folder / "flan-t5-xl").rename(folder / "flan-t5-xl-official")

    found = parts_of("infinity-2b", folder)
    assert ("infinity_vae_d32_reg.pth", "flan-t5-xl-official") == (found.vae.name, found.t5.name)


def test_converted_parts_come_first(folder: Path) -> None:
    """If a folder has both, converted files are used."""
    for stem in ("infinity_2b_reg", "infinity_vae_d32reg"):
        (folder / f"{stem}.safetensors").touch()

    found = parts_of("infinity-2b", folder)
    assert (".safetensors", ".safetensors") == (found.transformer.suffix, found.vae.suffix)


@pytest.mark.parametrize("name", ["infinity_8b_weights", "infinity_8b_512x512_weights"])
def test_a_folder_of_shards_may_be_named_itself(tmp_path: Path, name: str) -> None:
    """A folder of shards can be given itself, as in the official scripts; a folder of another size is not taken."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "model-00001-of-00001.safetensors").touch()
    (tmp_path / "infinity_vae_d56_f8_14_patchify.pth").touch()
    (tmp_path / "flan-t5-xl").mkdir()

    found = parts_of("infinity-8b", tmp_path / name)
    assert (tmp_path / name, tmp_path / "infinity_vae_d56_f8_14_patchify.pth") == (found.transformer, found.vae)


@pytest.mark.parametrize("name", FILES)
def test_an_empty_folder_says_what_belongs_there(tmp_path: Path, name: str) -> None:
    """The error lists all missing files and where to get them."""
    with pytest.raises(CheckpointError) as error:
        parts_of(name, tmp_path)
    message, wanted = one_line(error), FILES[name]
    for file in (wanted.transformer, wanted.vaes[0], "flan-t5-xl"):
        assert str(tmp_path / file) in message
    assert message.endswith(f"give {folder_for(name)}")


def test_one_missing_part_is_named_alone(folder: Path) -> None:
    """The error names only the part that is missing."""
    (folder / "infinity_vae_d32reg.pth").unlink()
    with pytest.raises(CheckpointError) as error:
        parts_of("infinity-2b", folder)
    assert f"model 'infinity-2b' lacks {folder / 'infinity_vae_d32reg.pth'}; give a folder with" in one_line(error)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A folder that does not exist gives the error of an empty one."""
    with pytest.raises(CheckpointError, match=r"model 'infinity-2b' lacks .*nowhere"):
        parts_of("infinity-2b", tmp_path / "nowhere")


def test_without_weights_they_come_from_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --weights exactly the transformer, the VAE and T5 are fetched from the hub."""
    asked = {}

    def fetched(repository: str, patterns, *, otherwise: str) -> Path:
        asked[repository] = list(patterns)
        return folder

    monkeypatch.setattr(files, "fetched", fetched)
    found = parts_of("infinity-2b", None)
    assert ["infinity_2b_reg.pth", "infinity_2b_reg.pth/*", "infinity_vae_d32reg.pth"] == asked[
        "FoundationVision/Infinity"
    ]
    assert folder / "infinity_2b_reg.pth" == found.transformer
    assert "spiece.model" in asked["google/flan-t5-xl"]
    (folder / "infinity_2b_reg.pth").unlink()
    with pytest.raises(
        CheckpointError, match=r"cache of FoundationVision/Infinity lacks infinity_2b_reg\.pth and cannot"
    ):
        parts_of("infinity-2b", None)


def test_without_weights_and_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without huggingface_hub the error names the extra."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"pip install 'scalekv\[hub\]'"):
        parts_of("infinity-2b", None)


def test_parts_that_do_not_belong_together(make_vae, tmp_path: Path) -> None:
    """The 8B's VAE under the name of the 2B's is refused before the transformer is read."""
    t5 = tmp_path / "t5"
    t5.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (t5 / name).touch()
    torch.save({"vae": make_vae("like8b").state_dict()}, tmp_path / "vae.pth")
    with pytest.raises(CheckpointError) as error:
        load_parts("infinity-2b", Parts(transformer=tmp_path / "not read", vae=tmp_path / "vae.pth", t5=t5))
    wanted = f"model 'infinity-2b' needs a VAE of 32 bits, as infinity_vae_d32reg.pth is; {tmp_path / 'vae.pth'} has 14"
    assert wanted == one_line(error)
