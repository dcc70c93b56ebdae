"""Which files an InfinityStar consists of, published or converted, and the errors for missing ones."""

from __future__ import annotations

import sys

import pytest

from scalekv_adapters.infinitystar import files
from scalekv_adapters.infinitystar.files import FOLDER, TOKENIZER, TRANSFORMERS, parts_of
from scalekv_core.errors import CheckpointError, MissingExtra

NAME = "infinitystar-8b"


@pytest.fixture(params=list(TRANSFORMERS))
def folder(request, tmp_path):
    """A folder with empty files under the official names, for one size."""
    (tmp_path / TRANSFORMERS[request.param]).mkdir()
    (tmp_path / TOKENIZER).touch()
    (tmp_path / "flan-t5-xl").mkdir()
    return tmp_path, request.param


def test_parts_are_found_under_their_official_names(folder) -> None:
    """In the folder, or beside the transformer; its name tells the size that it was trained for."""
    path, size = folder
    for given in (path, path / TRANSFORMERS[size]):
        found = parts_of(NAME, given)
        assert (path / TRANSFORMERS[size], path / TOKENIZER, path / "flan-t5-xl", size) == (
            found.transformer,
            found.tokenizer,
            found.t5,
            found.size,
        )


def test_converted_parts_come_first(folder) -> None:
    """And T5 is found where the official scripts have it."""
    path, size = folder
    for stem in (TRANSFORMERS[size], "infinitystar_videovae"):
        (path / f"{stem}.safetensors").touch()
    (path / "text_encoder").mkdir()
    (path / "flan-t5-xl").rename(path / "text_encoder" / "flan-t5-xl-official")
    found = parts_of(NAME, path)
    assert (".safetensors", ".safetensors", "flan-t5-xl-official", size) == (
        found.transformer.suffix,
        found.tokenizer.suffix,
        found.t5.name,
        found.size,
    )


def test_a_transformer_of_another_name_tells_no_size(folder) -> None:
    """Such as one that somebody trained on."""
    path, size = folder
    (path / TRANSFORMERS[size]).rename(path / "mine")
    (path / "mine" / "model-00001-of-00001.safetensors").touch()
    assert parts_of(NAME, path / "mine").size is None


def test_transformers_for_two_sizes_are_ambiguous(folder) -> None:
    """The message says how to name one."""
    path, _ = folder
    for name in TRANSFORMERS.values():
        (path / name).mkdir(exist_ok=True)
    with pytest.raises(
        CheckpointError, match=r"transformers for two sizes; give one of them: --weights .*_480p_weights"
    ):
        parts_of(NAME, path)
    assert "720p" == parts_of(NAME, path / TRANSFORMERS["720p"]).size


def test_what_is_missing_is_named(tmp_path) -> None:
    """With what belongs into the folder."""
    with pytest.raises(CheckpointError) as error:
        parts_of(NAME, tmp_path)
    message = str(error.value)
    for name in (TRANSFORMERS["480p"], TOKENIZER, "flan-t5-xl"):
        assert str(tmp_path / name) in message
    assert message.endswith(f"give {FOLDER}")
    assert "\n" not in message


def test_without_weights_they_come_from_the_hub(folder, monkeypatch) -> None:
    """The transformer for 480p, the tokenizer and T5; without the hub's client the extra is named."""
    path, size = folder
    asked = {}

    def fetched(repository, patterns, *, otherwise):
        asked[repository] = list(patterns)
        return path / "flan-t5-xl" if "t5" in repository else path

    monkeypatch.setattr(files, "fetched", fetched)
    if size == "480p":
        assert path / TRANSFORMERS["480p"] == parts_of(NAME, None).transformer
    else:
        with pytest.raises(CheckpointError, match=r"lacks .*_480p_weights"):
            parts_of(NAME, None)
    assert [f"{TRANSFORMERS['480p']}/*", TOKENIZER] == asked["FoundationVision/InfinityStar"]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"pip install 'scalekv\[hub\]'"):
        parts_of(NAME, None)
