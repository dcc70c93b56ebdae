"""A published transformer loads shard by shard as it is, and ends in one line where it does not."""

from __future__ import annotations

import json

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

from scalekv_adapters.infinity.checkpoint import InfinityFormat
from scalekv_adapters.infinitystar.checkpoint import InfinityStarFormat, load_infinitystar
from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_core.errors import CheckpointError
from tests.adapters.infinitystar.golden import SIZES, golden_star
from tests.adapters.infinitystar.published_folder import save_published, save_shards
from tests.adapters.infinitystar.tokenizer_data import SMALL, golden_tokenizer


def refusal(path, **options) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as error:
        load_infinitystar(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_shards_give_back_the_model(tmp_path) -> None:
    """Every size from the weights, every weight bit by bit."""
    (file, *_) = save_published(tmp_path)
    star = load_infinitystar(file.parent, tokenizer=golden_tokenizer())
    assert InfinityStarConfig(**SIZES) == star.config
    assert star.tokenizer is golden_tokenizer()
    assert not star.training
    for name, want in golden_star().state_dict().items():
        assert torch.equal(want, star.state_dict()[name]), name


def test_the_heads_stay_in_float32(tmp_path) -> None:
    """All else is in the dtype that was asked for, as in published runs."""
    (file, *_) = save_published(tmp_path)
    star = load_infinitystar(file.parent, dtype=torch.bfloat16)
    wide = {name for name, x in star.state_dict().items() if x.dtype == torch.float32}
    assert {"head.weight", "head.bias", "semantic_head2.weight", "semantic_head2.bias"} == wide


def test_one_file_and_a_longer_table_load_too(tmp_path) -> None:
    """What scalekv convert writes; rows of the table for no prompt behind the text window are left out."""
    state = golden_star().state_dict()
    longer = torch.cat((state["cfg_uncond"], torch.ones(8, 48)))
    save_file({**state, "cfg_uncond": longer}, tmp_path / "model.safetensors")
    star = load_infinitystar(tmp_path / "model.safetensors")
    assert torch.equal(state["cfg_uncond"], star.cfg_uncond)


def test_a_missing_shard_is_named(tmp_path) -> None:
    """With the folder that lacks it."""
    files = save_published(tmp_path)
    files[1].unlink()
    assert f"checkpoint {files[0].parent} lacks the shards {files[1].name}; fetch them" in refusal(files[0].parent)


def test_a_foreign_shard_is_refused(tmp_path) -> None:
    """One with tensors of another model, and one that holds what another shard holds."""
    files = save_published(tmp_path)
    kept = load_file(files[1])
    save_file({**kept, "blocks.0.attn.mat_qkv.weight": torch.zeros(3, 1)}, files[1])
    assert "1 are not known (blocks.0.attn.mat_qkv.weight)" in refusal(files[0].parent)
    (name, x), *_ = kept.items()
    save_file({f"other.{name}": x, **{n: y for n, y in kept.items() if n != name}}, files[1])
    assert f"1 tensors are missing ({name}); 1 are not known (other.{name})" in refusal(files[0].parent)
    save_file(load_file(files[0]), files[1])
    assert "in more than one shard" in refusal(files[0].parent)


def test_a_pointer_in_place_of_a_shard_is_named(tmp_path) -> None:
    """What a clone without large files leaves."""
    files = save_published(tmp_path)
    files[2].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4000000000\n")
    assert "LFS" in refusal(files[0].parent)
    assert str(files[2]) in refusal(files[0].parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head.bias": torch.zeros(3)}, r"1 have another shape (head.bias: (3,) instead of (128,))"),
        ({"word_embed.weight": None}, "cannot be loaded as InfinityStar: it lacks 'word_embed.weight'"),
        ({"norm_hidden_sates.weight": None}, "is no InfinityStar: there is no 'norm_hidden_sates.weight' in it"),
        ({"head.bias": torch.full((128,), torch.nan)}, "not finite"),
        ({"head.bias": torch.zeros(128, dtype=torch.int64)}, "another kind of number"),
        ({"block_chunks.1.module.1.attn.q_norm.weight": None}, "1 tensors are missing"),
    ],
    ids=["shape", "sizes", "kind", "nan", "integers", "layer"],
)
def test_other_weights_are_refused(tmp_path, changes, message) -> None:
    """In one line that names the checkpoint."""
    (file, *_) = save_published(tmp_path, **changes)
    said = refusal(file.parent)
    assert message in said
    assert str(file.parent) in said


def test_another_model_than_expected_is_refused(tmp_path) -> None:
    """The sizes that differ are told; so is a tokenizer of other codes."""
    (file, *_) = save_published(tmp_path)
    expect = attrs.evolve(InfinityStarConfig(**SIZES), kv_heads=4, hidden=512)
    assert "it has kv_heads 2, hidden 256; you asked for kv_heads 4, hidden 512" in refusal(file.parent, expect=expect)
    said = refusal(file.parent, tokenizer=VideoTokenizer(SMALL))
    assert "it reads codes of 64 channels; its tokenizer makes 8" in said


def test_an_index_without_shards_is_refused(tmp_path) -> None:
    """A folder with nothing else."""
    index = {"weight_map": {"head.weight": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks the shards model-00001-of-00001.safetensors" in refusal(tmp_path)


def test_the_families_are_told_apart(tmp_path) -> None:
    """Both publish a table for no prompt; neither takes the other for its own."""
    names = set(golden_star().state_dict())
    assert InfinityStarFormat().knows(names)
    assert not InfinityFormat().knows(names)
    (file, *_) = save_shards(tmp_path, {"cfg_uncond": torch.zeros(1, 1), "a": torch.zeros(1), "b": torch.zeros(1)})
    assert "is no InfinityStar" in refusal(file.parent)
