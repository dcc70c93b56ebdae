"""infinity-tiny: its files, prompts, aspect ratios and dtypes."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from scalekv_adapters.infinity import tiny
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.tiny.network import ASPECTS, TinyInfinity
from scalekv_adapters.infinity.tiny.words import WordEncoder
from scalekv_core import load_model
from scalekv_core.errors import InputError


def small_infinity() -> TinyInfinity:
    torch.manual_seed(0)
    sizes = InfinityConfig(depth=2, width=32, heads=2, bits=4, text_channels=32, text_maxlen=16, mlp_ratio=8)
    return TinyInfinity(sizes, text_depth=1)


@pytest.fixture(scope="module")
def model():
    return load_model("infinity-tiny")


def test_the_weights_are_small_and_say_what_they_are() -> None:
    """The files take at most 12 MB and describe themselves."""
    files = [f for f in importlib.resources.files(tiny).iterdir() if f.name.endswith(".safetensors")]
    assert {"infinity.safetensors", "vae.safetensors", "profile-1x1.safetensors"} <= {f.name for f in files}
    assert sum(len(f.read_bytes()) for f in files) <= 12_000_000


def test_load_gives_the_official_schedule_in_float32() -> None:
    """Seven maps of the published 0.06M schedule, 64 x 64 pixels, everything frozen."""
    loaded = tiny.load()
    assert loaded.transformer.canvas.schedule.total == 521
    assert loaded.transformer.canvas.image_size(loaded.transformer.vae.config.stride) == (64, 64)
    parameters = [*loaded.parameters(), *loaded.transformer.vae.parameters()]
    assert {p.dtype for p in parameters} == {torch.float32}
    assert not any(p.requires_grad for p in parameters)


def test_load_casts_the_transformer_only() -> None:
    """VAE and text encoder stay in float32."""
    loaded = tiny.load(dtype=torch.bfloat16)
    assert loaded.transformer.dtype == torch.bfloat16
    assert {loaded.text.words.weight.dtype, loaded.transformer.vae.dtype} == {torch.float32}


@pytest.mark.parametrize("aspect", ASPECTS)
def test_every_aspect_ratio_it_learnt_is_drawn(model, aspect: str) -> None:
    """Square, portrait and landscape images have the published schedules and a profile each."""
    model.set_shape(aspect=aspect)
    images = model.generate(["a red circle"], seeds=[0]).images
    height, width = model.schedule.maps[-1][-2:]
    assert (1, 3, 4 * height, 4 * width) == images.shape
    assert model.profile is not None
    assert model.profile.schedule == model.schedule
    model.set_shape(aspect="1:1")


def test_a_picture_depends_on_its_own_prompt_and_seed(model) -> None:
    """Prompts of different lengths generate in one batch what each generates alone; another seed gives another image."""
    prompts = ["a red circle left of a blue square", "two triangles", "a red circle left of a blue square"]
    together = model.generate(prompts, seeds=[3, 4, 5]).images
    for i, seed in enumerate([3, 4, 5]):
        assert_close(together[i : i + 1], model.generate(prompts[i : i + 1], seeds=[seed]).images, rtol=0, atol=1e-4)
    assert (together[0] - together[2]).square().mean() > 1e-4


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("a purple circle", "unknown word 'purple'; the words are a, two"),
        ("", "is empty"),
        ("circle red", "has an unknown form"),
    ],
)
def test_what_it_cannot_read_is_refused(model, prompt: str, why: str) -> None:
    """One line names the known words or shows a valid caption."""
    with pytest.raises(InputError, match=why):
        model.generate([prompt], seeds=[0])


def test_weights_are_not_taken() -> None:
    """--weights is refused, since the weights are shipped."""
    with pytest.raises(InputError, match="ships with its weights; leave out --weights"):
        load_model("infinity-tiny", weights=Path("x"))


def test_words_do_not_depend_on_their_batch() -> None:
    """A short caption beside a long one has the features that it has alone."""
    torch.manual_seed(0)
    encoder = WordEncoder(32)
    captions = ["a circle", "a red circle left of a blue square", "three red squares"]
    for caption, features in zip(captions, encoder.encode(captions), strict=True):
        assert_close(features, encoder.encode([caption])[0])


def test_the_same_shapes_in_other_colours_read_differently() -> None:
    """Exchanging the colours of two nouns changes the features of both."""
    torch.manual_seed(0)
    one, other = WordEncoder(32).encode(["a red circle and a blue square", "a blue circle and a red square"])
    assert (one[2] - other[2]).abs().max() > 1e-3
    assert (one[6] - other[6]).abs().max() > 1e-3


def test_no_prompt_means_no_prompt() -> None:
    """A dropped caption is replaced by the learnt unconditional features."""
    model = small_infinity()
    text = PackedText.pack([torch.randn(3, 32), torch.randn(2, 32)])
    dropped = model.transformer.with_dropped(text, torch.tensor([True, False]), None)
    assert_close(dropped.features[:3], model.transformer.cfg_uncond[:3])
    assert_close(dropped.features[3:], text.features[3:])
