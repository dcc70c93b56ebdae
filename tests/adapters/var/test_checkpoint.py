"""Checkpoints load in every nesting that trainers write; other files end in one line."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from scalekv_adapters.infinity.checkpoint import FORMATS as INFINITY
from scalekv_adapters.var.checkpoint import FORMATS, VARFormat, VQVAEFormat, describe, load_var, load_vqvae
from scalekv_adapters.var.config import VARConfig
from scalekv_core.cli import main
from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights.source import formats_in

SIDES = (1, 2, 3, 4, 5, 6)


@pytest.fixture
def state(var_state):
    """The state dict, float16, of the variant built like most published models."""
    return var_state("saln0_l2n1")


@pytest.fixture
def save(tmp_path):
    """Saves anything with torch and returns the path."""

    def save(content):
        path = tmp_path / "model.pth"
        torch.save(content, path)
        return path

    return save


def one_line(error):
    """The message, if it is of one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_checkpoint_gives_back_the_model(make_var, var, variant, save):
    """Sizes, weights and buffers come from the file, cast from float16 to float32."""
    path = save(
        {name: value.half() if value.is_floating_point() else value for name, value in var.state_dict().items()}
    )
    loaded = load_var(path, expect=var.config if "l2n0" in variant else None, vqvae=var.vqvae)
    assert var.config == loaded.config
    assert {torch.float32} == {value.dtype for value in loaded.parameters()}
    want, got = var.generate([3], seeds=[1]), loaded.generate([3], seeds=[1])
    assert torch.equal(want.images, got.images)
    assert not loaded.training


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"trainer": {"var_wo_ddp": state, "vae_local": {}}, "epoch": 3},
        lambda state: {"state_dict": state},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    ],
)
def test_what_trainers_wrap_around_is_taken_off(plain_var, state, save, wrap):
    """Known nestings and prefixes lead to the same model."""
    assert plain_var.config == load_var(save(wrap(state))).config


def test_safetensors_are_read(plain_var, state, tmp_path):
    """A .safetensors file gives the same weights."""
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    loaded = load_var(path, dtype=torch.bfloat16)
    assert torch.equal(plain_var.head.weight.bfloat16(), loaded.head.weight)


def test_old_torch_files_are_read(plain_var, state, tmp_path):
    """Files from before torch used zip cannot be mapped, but are read."""
    path = tmp_path / "model.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert plain_var.config == load_var(path).config


def test_a_vqvae_is_found_in_a_trainer_file(make_vqvae, save, golden):
    """Sizes come from the file; it encodes as before."""
    vqvae, images = make_vqvae(), golden("vae")["in.image"]
    loaded = load_vqvae(save({"trainer": {"vae_local": vqvae.state_dict(), "var_wo_ddp": {}}}), patch_sides=SIDES)
    assert vqvae.config == loaded.config
    assert [t.tolist() for t in vqvae.encode(images)] == [t.tolist() for t in loaded.encode(images)]


def test_another_model_than_expected_is_told(state, save):
    """The error describes both models by their differing sizes."""
    path = save(state)
    with pytest.raises(CheckpointError) as error:
        load_var(path, expect="var-d16")
    assert one_line(error) == (
        f"checkpoint {path} is a VAR of depth 3, width 96, heads 3, num_classes 10, patch_sides (1, 2, 3, 4, 5, 6), "
        "codes 64, code_width 8; you asked for var-d16 of depth 16, width 1024, heads 16, num_classes 1000, "
        "patch_sides (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), codes 4096, code_width 32"
    )


def test_a_published_model_is_called_by_its_name():
    """Loading a d30 checkpoint as d16 names both and their differing sizes."""
    want, got = VARConfig.published("var-d16"), VARConfig.published("var-d30")
    assert describe(got, want) == "var-d30 of depth 30, width 1920, heads 30"


def test_unknown_number_of_heads_is_asked_for(var_state, save):
    """Without head scales and 64-wide heads the number of heads is unknown, and the error says what to give."""
    with pytest.raises(CheckpointError, match="it does not say how many heads share its width 96; give expect"):
        load_var(save(var_state("saln0_l2n0")))


def test_missing_and_unknown_tensors_are_named(state, save):
    """The error names the first few of each."""
    del state["blocks.1.attn.q_bias"]
    state["blocks.0.attn.rope"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        load_var(save(state))
    assert "1 tensors are missing (blocks.1.attn.q_bias); 1 are not known (blocks.0.attn.rope)" in one_line(error)


def test_a_tensor_of_another_shape_is_named(state, save):
    """The error gives name, shape and wanted shape."""
    state["blocks.1.ffn.fc1.bias"] = torch.zeros(100)
    with pytest.raises(CheckpointError) as error:
        load_var(save(state))
    assert "1 have another shape (blocks.1.ffn.fc1.bias: (100,) instead of (384,))" in one_line(error)


def test_missing_sizes_are_named(state, save):
    """The error names the missing tensor from which a size would be read."""
    del state["word_embed.weight"]
    with pytest.raises(CheckpointError) as error:
        load_var(save(state))
    assert "cannot be loaded as VAR: it lacks 'word_embed.weight'" in one_line(error)


def test_maps_that_are_not_square_are_refused(state, save):
    """The level table must count squares."""
    state["lvl_1L"][0, 4] = 2
    with pytest.raises(
        CheckpointError, match=r"it has maps that are not square: \(1, 3, 10, 16, 25, 36\) tokens per scale"
    ):
        load_var(save(state))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (torch.arange(91.0)[None], "its lvl_1L is not an ascending list of the scales of its 91 tokens"),
        (-torch.arange(91)[None], "its lvl_1L is not an ascending list of the scales of its 91 tokens"),
        (torch.full((1, 91), 3 * 10**7), "its lvl_1L is not an ascending list of the scales of its 91 tokens"),
        (torch.arange(10**6)[None], "its lvl_1L is not an ascending list of the scales of its 91 tokens"),
        (torch.tensor(0), "its lvl_1L is not an ascending list of the scales of its 91 tokens"),
    ],
    ids=["real", "falling", "huge", "long", "scalar"],
)
def test_a_level_table_that_is_none_is_refused(state, save, levels, message):
    """A level table with other contents ends in one line."""
    state["lvl_1L"] = levels
    with pytest.raises(CheckpointError) as error:
        load_var(save(state))
    assert one_line(error).endswith(f"cannot be loaded as VAR: {message}")


def test_more_scales_than_any_model_has_are_refused(state, save):
    """A level table that lists more scales than any model has is refused."""
    state |= {"lvl_1L": torch.arange(10**5)[None], "pos_1LC": torch.zeros(1, 10**5, 96)}
    with pytest.raises(CheckpointError, match="its lvl_1L lists 100000 scales; a VAR has at most 100"):
        load_var(save(state))


@pytest.mark.parametrize("name", ["pos_1LC", "class_emb.weight", "head.weight", "blocks.0.attn.scale_mul_1H11"])
def test_a_scalar_where_sizes_are_read_is_refused(state, save, name):
    """The error names the tensor and its shape."""
    state[name] = torch.tensor(1.0)
    with pytest.raises(
        CheckpointError, match=rf"cannot be loaded as VAR: '{name}' has the shape \(\); wanted . dimensions"
    ):
        load_var(save(state))


def test_another_kind_of_model_is_told(make_vqvae, state, save):
    """A VQVAE given as a VAR, a VAR given as a VQVAE, and other files are described."""
    with pytest.raises(CheckpointError, match=r"is no VAR: there is no 'pos_1LC' in it; it is a VQVAE"):
        load_var(save(make_vqvae().state_dict()))
    with pytest.raises(CheckpointError, match=r"is no VQVAE: .*; it is a VAR"):
        load_vqvae(save(state))
    with pytest.raises(CheckpointError, match="it holds a, b, c and 1 more"):
        load_var(save(dict.fromkeys("abcd", 0)))
    with pytest.raises(CheckpointError, match="holds one list, not tensors by name"):
        load_var(save([1, 2]))


def test_another_number_of_scales_is_told(make_vqvae, save):
    """The user's patch sides must be as many as the VQVAE was trained with."""
    with pytest.raises(
        CheckpointError, match=r"cannot be loaded as VQVAE: it has 6 scales; you asked for patch_sides \(1, 2\)"
    ):
        load_vqvae(save(make_vqvae().state_dict()), patch_sides=(1, 2))


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_truncated_file_is_told(state, tmp_path, name):
    """Half a file is refused, in either format."""
    path = tmp_path / name
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError) as error:
        load_var(path)
    assert f"checkpoint {path} is truncated" in one_line(error)


class Bomb:
    """An object whose unpickling calls a function."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(state, tmp_path, zipped):
    """A file that asks for a function is refused, and the error names the function."""
    path = tmp_path / "model.pth"
    torch.save({"model": state, "bomb": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as error:
        load_var(path)
    assert f"checkpoint {path} was not loaded: it holds more than tensors: it asks for " in one_line(error)
    assert one_line(error).endswith("exec")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"a": 1}), b"\x80\x02}q"])
def test_other_files_are_refused(tmp_path, content):
    """Any other file is refused in one line that names it."""
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_var(path)
    assert f"checkpoint {path}" in one_line(error)


def test_a_missing_file_is_told(tmp_path):
    """The message names the path."""
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nothing\.pth"):
        load_var(tmp_path / "nothing.pth")


def test_converted_weights_are_loaded_from_their_folder(make_var, var_state, make_vqvae, tmp_path, capsys):
    """A trainer's file with both networks becomes two files, from which the same model is loaded."""
    vqvae, state = make_vqvae(), var_state("saln0_l2n1")
    torch.save({"trainer": {"vae_local": vqvae.state_dict(), "var_wo_ddp": state}}, tmp_path / "trained.pth")
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(tmp_path / "trained.pth"), "--out", str(tmp_path / "converted")])
    assert (0, "") == (stopped.value.code, capsys.readouterr().err)

    folder = tmp_path / "converted"
    loaded = load_var(
        folder / "trained-var.safetensors", vqvae=load_vqvae(folder / "trained-vqvae.safetensors", patch_sides=SIDES)
    )
    want, got = make_var("saln0_l2n1").generate([3], seeds=[1]), loaded.generate([3], seeds=[1])
    assert torch.equal(want.images, got.images)


def test_networks_of_two_families_are_told_apart(make_vqvae, state, save):
    """A VQVAE has all marker names of Infinity's VAE and is still recognised as a VQVAE."""
    both = [*INFINITY, *FORMATS]
    assert [VQVAEFormat()] == formats_in(save(make_vqvae().state_dict()), both)
    assert [VARFormat()] == formats_in(save(state), both)


def test_scales_are_read_off_a_table_that_must_be_there(state, save):
    """Without it the sizes of the maps are not known."""
    del state["lvl_1L"]
    with pytest.raises(CheckpointError, match="it lacks 'lvl_1L'"):
        load_var(save(state))
