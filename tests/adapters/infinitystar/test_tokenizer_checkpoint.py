"""The published tokenizer's file loads as it is, and ends in one line where it does not."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from scalekv_adapters.infinitystar.tokenizer_checkpoint import (
    VideoTokenizerFormat,
    load_video_tokenizer,
    random_video_tokenizer,
)
from scalekv_core.errors import CheckpointError
from tests.adapters.infinitystar.tokenizer_data import SMALL, TINY, golden_state, golden_tokenizer, recorded


@pytest.fixture
def published(tmp_path):
    """Writes the golden tokenizer as it is published: entry ``vae`` of a torch file, masks under two names."""

    def write(**changes):
        masks = {f"{name}.lfq_detail.mask": torch.ones(64, dtype=torch.int64) for name in ("quantizer", "quantize")}
        state = {**golden_state(), **masks, **changes}
        path = tmp_path / "infinitystar_videovae.pth"
        torch.save({"vae": {name: x for name, x in state.items() if x is not None}, "epoch": 3}, path)
        return path

    return write


def test_a_published_file_gives_back_the_tokenizer(published, tmp_path):
    """Sizes from the weights, from the torch file and from safetensors; the same clips, bit by bit."""
    save_file(golden_state(), tmp_path / "converted.safetensors")
    wanted = golden_tokenizer().pictures(recorded("vae")["features"])
    for path in (published(), tmp_path / "converted.safetensors"):
        tokenizer = load_video_tokenizer(path)
        assert TINY == tokenizer.config
        assert not tokenizer.training
        assert torch.equal(wanted, tokenizer.pictures(recorded("vae")["features"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proj_up.weight": None}, r"1 tensors are missing \(proj_up.weight\)"),
        ({"decoder.extra": torch.zeros(1)}, r"1 are not known \(decoder.extra\)"),
        ({"proj_up.bias": torch.zeros(3)}, r"another shape \(proj_up.bias: \(3,\) instead of \(64,\)\)"),
        ({"encoder.down_blocks.0.resnets.0.conv1.conv.weight": None}, "cannot be loaded as InfinityStar tokenizer"),
        ({"scale_learnable_parameters": None}, "is no InfinityStar tokenizer"),
        ({"proj_up.bias": torch.full((64,), torch.nan)}, "not finite|NaN|nan"),
    ],
    ids=["missing", "unknown", "shape", "sizes", "kind", "nan"],
)
def test_another_file_is_refused(published, changes, message):
    """In one line that names the file."""
    path = published(**changes)
    with pytest.raises(CheckpointError, match=message) as error:
        load_video_tokenizer(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_random_weights_depend_on_their_seed():
    """The same clip for the same seed, another for another; finite, in [0, 1]."""
    features = torch.randn(1, 8, 2, 1, 2, generator=torch.Generator().manual_seed(0))
    one, same, other = (random_video_tokenizer(SMALL, seed=seed).pictures(features) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 0 <= one.min()
    assert one.max() <= 1


def test_it_stays_in_float32_when_it_is_converted():
    """As published runs keep it."""
    assert VideoTokenizerFormat().stays_as_it_is
