"""A HART's folder loads as it was published, and ends in one line where it does not."""

from __future__ import annotations

import json

import attrs
import pytest
import torch
from safetensors.torch import save_file

from scalekv_adapters.hart import card as cards
from scalekv_adapters.hart.checkpoint import load_hart, load_tokenizer
from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.files import parts_of
from scalekv_core.errors import CheckpointError, InputError
from tests.adapters.hart.conftest import SIDES, VARIANTS, context_of, tiny_hart, tiny_tokenizer

TOLD = {
    "depth": 3, "embed_dim": 96, "num_heads": 3, "context_token": 12, "context_dim": 40, "patch_nums": list(SIDES),
    "num_sampling_steps": "8", "diff_width": 64, "diff_depth": 2, "attn_type": "llama", "mlp_type": "llama",
}  # fmt: skip
FLAGS = {
    "plain": {"disable_aln": True, "shared_aln": False, "use_timestep_embed": True, "use_context_norm": True},
    "table": {"disable_aln": True, "shared_aln": True, "use_timestep_embed": False, "use_context_norm": False},
    "ada": {"disable_aln": False, "shared_aln": False, "use_timestep_embed": True, "use_context_norm": False},
}


@pytest.fixture
def folder(tmp_path):
    """Writes the golden model of a variant as it would be published, and returns the folder."""

    def write(variant="plain", told=None, extra=None):
        llm, tokenizer = tmp_path / "llm", tmp_path / "tokenizer"
        llm.mkdir(exist_ok=True)
        tokenizer.mkdir(exist_ok=True)
        state = {**tiny_hart(variant).state_dict(), "lvl_1L": torch.zeros(1, 102, dtype=torch.int64), **(extra or {})}
        torch.save(state, llm / "ema_model.bin")
        save_file({"context_embed.weight": torch.zeros(1, 1)}, llm / "model.safetensors")
        (llm / "config.json").write_text(json.dumps({**TOLD, **FLAGS[variant], **(told or {})}))
        state = {f"vae.{name}": x for name, x in tiny_tokenizer().state_dict().items()}
        save_file({**state, "disc.conv.weight": torch.zeros(1)}, tokenizer / "model.safetensors")
        (tmp_path / "Qwen2-VL-1.5B-Instruct").mkdir(exist_ok=True)
        return tmp_path

    return write


def loaded(folder):
    """The HART of a folder, by the averaged weights."""
    parts = parts_of("hart-0.7b", folder)
    assert "ema_model.bin" == parts.transformer.name
    tokenizer = load_tokenizer(parts.tokenizer, patch_sides=SIDES)
    return load_hart(parts.transformer, parts.config, tokenizer=tokenizer)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_folder_gives_back_the_model(folder, variant):
    """Sizes from weights and config, the averaged weights, the tokenizer under its prefix without the discriminator."""
    model = loaded(folder(variant))
    assert tiny_hart(variant).config == model.config
    context = context_of(variant)
    mine, theirs = (x.generate(context, seeds=[1, 2], guidance=2.0) for x in (model, tiny_hart(variant)))
    assert torch.equal(mine.images, theirs.images)


@pytest.mark.parametrize(
    ("told", "extra", "message"),
    [
        ({"depth": 4}, {}, "its config.json says depth = 4, its weights say 3"),
        ({"use_context_norm": False}, {}, "says use_context_norm = False, its weights say True"),
        ({}, {"pos_1LC": torch.zeros(1, 1, 96)}, "HART of the GPT-2 kind"),
        ({"num_heads": 5}, {}, "no multiple of 4 per head"),
    ],
    ids=["depth", "flag", "gpt2", "heads"],
)
def test_a_config_that_contradicts_the_weights_is_refused(folder, told, extra, message):
    """In one line that says what was found."""
    with pytest.raises(CheckpointError, match=message) as error:
        loaded(folder(told=told, extra=extra))
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named(folder):
    """With what the folder should hold."""
    path = folder()
    (path / "llm" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks .*config\.json; give a folder with llm/"):
        parts_of("hart-0.7b", path)


def test_random_weights_generate_and_negative_prompts_are_refused():
    """A tiny card: text by words, noise as an image, the same for the same seed."""
    config = HARTConfig(
        depth=2, width=32, heads=2, hidden=64, context_tokens=6, context_width=8, patch_sides=(1, 2, 4), codes=16, code_width=4,
        diffusion_width=16, diffusion_depth=1, diffusion_steps=2,
    )  # fmt: skip
    tokenizer = attrs.evolve(config.tokenizer, base_channels=32, multipliers=(1, 1), blocks=1)
    card = attrs.evolve(cards.HARTCard.of("hart-0.7b"), config=config, tokenizer=tokenizer, geometry=config.geometry())
    model = card.random(seed=1)
    first, again = (model.generate(["a red circle"], seeds=[3]).images for _ in range(2))
    assert torch.equal(first, again)
    assert (1, 3, 8, 8) == first.shape
    for prompts, options, message in (
        (["a red circle"], {"negative_prompt": "blue"}, "leave out the negative prompt"),
        ([""], {}, "prompt 1 of 1 is empty"),
        (["one two three four five six seven"], {}, "may have 6 text tokens, here words; got 7"),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(prompts, seeds=[3], **options)
