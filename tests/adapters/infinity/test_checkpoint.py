"""Published Infinity and BSQ-VAE files load in every layout in use; other files end in one line."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

from scalekv_adapters.infinity import checkpoint
from scalekv_adapters.infinity.checkpoint import (
    BSQVAEFormat,
    InfinityFormat,
    infinity_config,
    load_bsq_vae,
    load_infinity,
    long_name,
)
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import Weights, check_fit
from scalekv_core.models.weights.conversion import conversions
from scalekv_core.models.weights.source import normal

MANIFESTS = {
    "infinity-125m": ("infinity_layer12_125m", "infinity_vae_d16"),
    "infinity-2b": ("infinity_2b", "infinity_vae_d32"),
    "infinity-8b": ("infinity_8b", "infinity_vae_d56_f8_14_patchify"),
}
KINDS = ("like2b", "like8b")


@pytest.fixture
def state(make_infinity):
    """The official state dict of one of the recorded models."""
    return lambda kind="like2b": dict(make_infinity(kind).state_dict())


@pytest.fixture
def vae_state(make_vae):
    """The official state dict of the VAE of one of the recorded models."""
    return lambda kind="like2b": dict(make_vae(kind).state_dict())


@pytest.fixture
def save(tmp_path):
    """Saves anything with torch and returns the path."""

    def save(content, name="infinity.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def one_line(error):
    """The message, if it is of one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def same_state(want, got):
    """Whether two modules hold the same, bit by bit."""
    want, got = want.state_dict(), got.state_dict()
    return list(want) == list(got) and all(torch.equal(want[name], got[name]) for name in want)


def draws_the_same(want, got):
    """Whether two models generate the same image from the same text."""
    text = PackedText.pack([torch.randn(5, 256, generator=torch.Generator().manual_seed(0))])
    pictures = [model.generate(text, seeds=[1], guidance=3.0, canvas=want.canvas).images for model in (want, got)]
    return torch.equal(*pictures)


def halved(model):
    """The model with blocks and text projections in bfloat16."""
    for part in (model.block_chunks, model.text_proj_for_ca, model.text_proj_for_sos):
        part.to(torch.bfloat16)
    return model


def swapped(state):
    """The head scales in the layout of the official code without flash-attn's, and the other way round."""
    return {n: v.transpose(1, 2).contiguous() if n.endswith("scale_mul_1H11") else v for n, v in state.items()}


def with_training_buffers(state):
    """What a training run leaves in a state dict, and what it may leave out."""
    kept = {name: value for name, value in state.items() if not name.endswith("zero_k_bias")}
    return {**kept, **{name: torch.zeros(3) for name in checkpoint.DROPPED}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", [dict, swapped, with_training_buffers], ids=lambda made: made.__name__)
def test_a_checkpoint_gives_back_the_model(make_infinity, make_vae, state, save, kind, made):
    """Sizes, weights and buffers come from the file in either layout of head scales, and images are the same."""
    want = make_infinity(kind)
    got = load_infinity(save(made(state(kind))), vae=make_vae(kind), expect=want.config, canvas=want.canvas)

    assert want.config == got.config
    assert same_state(want, got)
    assert made is not dict or draws_the_same(want, got)  # once will do: the states are equal
    assert not got.training


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"trainer": {"gpt_fsdp": state, "gpt_ema_fsdp": {}, "config": {}}, "epoch": 1},
        lambda state: {"trainer": {"gpt_wo_ddp": {f"module.{name}": value for name, value in state.items()}}},
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    ],
)
def test_what_trainers_wrap_around_is_taken_off(make_infinity, state, save, wrap):
    """Known nestings and prefixes lead to the same model."""
    assert same_state(make_infinity("like2b"), load_infinity(save(wrap(state()))))


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_folder_of_shards_is_read(make_infinity, state, tmp_path, suffix):
    """A folder of shards loads, as the 8B model is published."""
    weights, names = state("like8b"), [f"model-{n:05d}-of-00003{suffix}" for n in (1, 2, 3)]
    for n, name in enumerate(names):
        part = dict(list(weights.items())[n::3])
        save_file(part, tmp_path / name) if suffix == ".safetensors" else torch.save(part, tmp_path / name)
    index = {name: names[i % 3] for i, name in enumerate(weights)}
    (tmp_path / f"model{suffix}.index.json").write_text(json.dumps({"weight_map": index}))

    want = make_infinity("like8b")
    assert same_state(want, load_infinity(tmp_path, expect=want.config))
    (tmp_path / names[1]).unlink()
    with pytest.raises(CheckpointError) as error:
        load_infinity(tmp_path)
    assert f"checkpoint {tmp_path} lacks the shards {names[1]}; fetch them" in one_line(error)


def test_a_table_for_no_prompt_of_any_length_is_read(state, save, infinity_config):
    """A longer table is shortened to T5's limit; a shorter one means shorter prompts and is not padded."""
    weights, width = state(), state()["cfg_uncond"].shape[1]
    long = torch.randn(600, width)
    loaded = load_infinity(save({**weights, "cfg_uncond": long}))
    assert 512 == loaded.config.text_maxlen
    assert torch.equal(long[:512], loaded.cfg_uncond)
    short = load_infinity(save({**weights, "cfg_uncond": long[:7].clone()}), expect=infinity_config("like2b"))
    assert 7 == short.config.text_maxlen


@pytest.mark.parametrize("name", MANIFESTS)
def test_published_models_fit(manifest, name):
    """The modules built from the published sizes have the names and shapes of the published files, buffers included."""
    weights = weights_of(manifest(MANIFESTS[name][0]), InfinityFormat())
    config = infinity_config(weights, None, InfinityConfig.published(name))
    with torch.device("meta"):
        check_fit(Infinity(config).state_dict(), weights)


@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize("short", [True, False])
def test_published_vaes_fit(manifest, name, short):
    """Published VAEs fit with and without the inner names; what the official loader ignores is ignored."""
    recorded = manifest(MANIFESTS[name][1])
    if short:
        recorded["params"] = {shortened(key): shape for key, shape in recorded["params"].items()}
        recorded["params"]["discriminator.0.weight"] = [1]
    weights = weights_of(recorded, BSQVAEFormat())
    config = BSQVAEConfig.of_state(weights.shapes)
    assert InfinityConfig.published(name).bits == config.bits
    with torch.device("meta"):
        check_fit(BSQVAE(config).state_dict(), weights)


def weights_of(recorded, format):
    """A manifest as if it were a file."""
    shapes = {n: torch.empty(shape, device="meta") for n, shape in recorded["params"].items()}
    shapes |= {n: torch.empty(buffer["shape"], device="meta") for n, buffer in recorded["buffers"].items()}
    assert format.knows(shapes)
    return Weights(Path("published"), format, (), normal(format, shapes, Path("published")))


def shortened(name):
    """A VAE's name without the inner module."""
    short = name.replace("conv.conv.", "conv.").replace("norm.weight", "weight").replace("norm.bias", "bias")
    return short if short != name else name.replace(".conv.weight", ".weight").replace(".conv.bias", ".bias")


@pytest.mark.parametrize("kind", KINDS)
def test_a_vae_gives_back_its_pictures(make_vae, vae_state, save, kind):
    """Under ``vae`` as published, with the short names, without masks, and with the averaged twin beside it."""
    want = make_vae(kind)
    short = {shortened(n): value for n, value in vae_state(kind).items() if not n.endswith("mask")}
    zeros = {name: torch.zeros_like(value) for name, value in short.items()}
    for content in (vae_state(kind), {"vae": short, "ema": zeros, "discriminator": {}}):
        got = load_bsq_vae(save(content))
        assert want.config == got.config
        assert same_state(want, got)
        latents = torch.randn(1, want.config.bits, 4, 4, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(want.decode(latents), got.decode(latents))


def test_every_long_name_comes_from_its_short_one(manifest):
    """Each short name maps to its long one, and a long name to itself."""
    for _, vae in MANIFESTS.values():
        for name in manifest(vae)["params"]:
            assert name == long_name(name) == long_name(shortened(name))


def test_half_precision_is_that_of_the_official_inference(make_infinity, state, save):
    """Half precision covers blocks and text projections only, as in the official inference."""
    want = halved(make_infinity("like2b"))
    got = load_infinity(save(state()), dtype=torch.bfloat16)

    assert {n: v.dtype for n, v in want.state_dict().items()} == {n: v.dtype for n, v in got.state_dict().items()}
    assert same_state(want, got)


def test_the_vae_must_be_that_of_the_transformer(make_vae, state, save):
    """A transformer of 16 bits with a VAE of 14 is refused."""
    path = save(state("like2b"))
    with pytest.raises(CheckpointError) as error:
        load_infinity(path, vae=make_vae("like8b"))
    assert f"checkpoint {path} cannot be loaded as Infinity: its 16 bits per token" in one_line(error)
    assert "VAE's 14" in one_line(error)


def test_another_model_than_expected_is_told(state, save):
    """The error describes both models by their differing sizes."""
    path = save(state())
    with pytest.raises(CheckpointError) as error:
        load_infinity(path, expect="infinity-2b")
    assert f"checkpoint {path} is an Infinity of depth 4, width 128, heads 2, bits 16" in one_line(error)
    assert "you asked for infinity-2b of depth 32, width 2048, heads 16, bits 32" in one_line(error)


def test_a_published_model_is_called_by_its_name():
    """Loading an 8B file as 2B names both."""
    got, want = InfinityConfig.published("infinity-8b"), InfinityConfig.published("infinity-2b")
    assert checkpoint.describe(got, want).startswith("infinity-8b of depth 40, width 3584, heads 28")
    assert "an Infinity of depth 40" == checkpoint.describe(attrs.evolve(want, depth=40), want)


def test_missing_unknown_and_other_tensors_are_named(state, save):
    """The error names the first few missing, unknown and mismatching tensors."""
    weights = state()
    del weights["block_chunks.1.module.0.ca.v_bias"]
    weights["head.bias"] = torch.zeros(5)
    weights["block_chunks.0.module.0.ffn.fcg.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        load_infinity(save(weights))
    message = one_line(error)
    assert "1 tensors are missing (block_chunks.1.module.0.ca.v_bias)" in message
    assert "1 are not known (block_chunks.0.module.0.ffn.fcg.weight)" in message
    assert "1 have another shape (head.bias: (5,) instead of (32,))" in message


def test_a_scalar_where_a_table_belongs_is_told(state, save):
    """With its shape."""
    weights = state() | {"cfg_uncond": torch.tensor(0.0)}
    with pytest.raises(CheckpointError, match=r"is no Infinity: cfg_uncond has the shape \(\)"):
        load_infinity(save(weights))


def test_incomplete_files_say_what_they_lack(state, vae_state, save):
    """The error names the missing tensor from which a size would be read."""
    weights = state()
    del weights["word_embed.weight"]
    with pytest.raises(
        CheckpointError, match=r"infinity\.pth cannot be loaded as Infinity: it lacks 'word_embed\.weight'"
    ):
        load_infinity(save(weights))
    weights = {name: value for name, value in vae_state().items() if not name.startswith("encoder.conv_in")}
    with pytest.raises(CheckpointError, match=r"infinity\.pth cannot be loaded as BSQ-VAE: it lacks 'encoder\.conv_in"):
        load_bsq_vae(save(weights))


def test_another_kind_of_network_is_told(state, vae_state, save):
    """A VAE given as a transformer, and the other way round, is refused with both names."""
    with pytest.raises(CheckpointError, match=r"is no BSQ-VAE: there is no 'decoder.*; it is an Infinity"):
        load_bsq_vae(save(state()))
    with pytest.raises(CheckpointError, match=r"is no Infinity: there is no 'cfg_uncond' in it; it is a BSQ-VAE"):
        load_infinity(save({"vae": vae_state()}))


def test_converted_weights_load_as_the_published_ones(
    make_infinity, make_vae, state, vae_state, save, tmp_path, capsys
):
    """A converted half-precision file loads like the published one; the VAE stays in float32."""
    save(swapped(state()), "infinity_2b_reg.pth")
    short = {shortened(n): value for n, value in vae_state().items()}
    save({"vae": short}, "infinity_vae_d32reg.pth")
    found, left = conversions(tmp_path, checkpoint.FORMATS, dtype=torch.bfloat16)
    (tmp_path / "out").mkdir()
    for one in found:
        one.write(tmp_path / "out")
    assert [] == left

    file = tmp_path / "out" / "infinity_2b_reg.safetensors"
    got = load_infinity(file, dtype=torch.bfloat16)
    assert same_state(halved(make_infinity("like2b")), got)
    stored = {name: value.dtype for name, value in load_file(file).items()}
    assert {name: value.dtype for name, value in got.state_dict().items() if name in stored} == stored
    assert same_state(make_vae("like2b"), load_bsq_vae(tmp_path / "out" / "infinity_vae_d32reg.safetensors"))
