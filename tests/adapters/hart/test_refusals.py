"""What a HART cannot take ends in one line that says what it needs."""

from __future__ import annotations

import json

import attrs
import pytest
import torch

from scalekv_adapters.hart.card import HARTCard
from scalekv_adapters.hart.checkpoint import read_config
from scalekv_adapters.hart.context import Context
from scalekv_adapters.hart.generation import HART
from scalekv_adapters.hart.text import QwenEncoder
from scalekv_core.errors import CheckpointError, InputError, MissingExtra, UnknownName
from scalekv_core.models.sampling import Sampling
from tests.adapters.hart.conftest import SIDES, context_of, tiny_hart, tiny_tokenizer
from tests.adapters.hart.test_checkpoint import folder, loaded

__all__ = ["folder"]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"num_heads": "three"}, "says num_heads = 'three'; it needs a whole number"),
        ({"num_heads": True}, "says num_heads = 'True'"),
        ({"num_sampling_steps": 0}, "says num_sampling_steps = '0'"),
        ({"patch_nums": 6}, r"says patch_nums = '6'; it needs the sides of the maps"),
        ({"patch_nums": [1, "two"]}, "says patch_nums = 'two'"),
    ],
)
def test_a_config_of_other_values_is_refused(folder, told, message):
    """With what it says and what it needs."""
    with pytest.raises(CheckpointError, match=message):
        loaded(folder(told=told))


def test_a_config_that_lacks_something_is_refused(folder):
    """The name is told."""
    path = folder()
    config = path / "llm" / "config.json"
    told = json.loads(config.read_text())
    del told["num_heads"]
    config.write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="lacks 'num_heads'"):
        loaded(path)


@pytest.mark.parametrize(("text", "message"), [("[1]", "holds a list"), ("{", "cannot be read")])
def test_a_config_that_is_none_is_refused(tmp_path, text, message):
    """No JSON, or no object."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path / "config.json")


def test_a_context_of_other_shapes_is_refused():
    """Shapes that do not go together, a prompt without a token, and a longer one."""
    with pytest.raises(InputError, match=r"features \(B, T, C\).*got \(2, 3\)"):
        Context(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="one has none that is no padding"):
        Context(torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool))
    with pytest.raises(InputError, match=r"prompts of 1 to 4 text tokens; got \[5\]"):
        Context.of([torch.zeros(5, 8)], 4)


def test_a_tokenizer_of_another_model_is_refused():
    """Its codes are others; and without one there are no images."""
    config = tiny_hart("plain").config
    with pytest.raises(InputError, match="HART needs a tokenizer of"):
        HART(attrs.evolve(config, codes=7), tiny_tokenizer())
    with pytest.raises(InputError, match="this HART has no tokenizer"):
        HART(config).generate(context_of("plain"), seeds=[1, 2])


def test_text_of_another_width_is_refused():
    """It comes from another language model."""
    context = context_of("plain")
    other = Context(context.features[..., :8], context.real)
    with pytest.raises(InputError, match=r"reads text of \(tokens, channels\) \(12, 40\); got \(12, 8\)"):
        tiny_hart("plain").batch(other, Sampling(guidance=2.0))


@pytest.fixture
def language_model(folder):
    """A folder with a HART whose language model is a config and a system prompt."""

    def write(config):
        path = folder()
        text = path / "Qwen2-VL-1.5B-Instruct"
        (text / "config.json").write_text(config)
        (text / "system_prompt.txt").write_text("Say what is in the picture.")
        return path

    return write


@pytest.mark.parametrize("config", ["{}", "[]", "{", '{"hidden_size": "wide"}'])
def test_a_folder_without_a_language_model_is_refused(language_model, config):
    """Its config does not say how wide its features are."""
    folder = language_model(config) / "Qwen2-VL-1.5B-Instruct"
    with pytest.raises(CheckpointError, match="does not tell a hidden_size"):
        QwenEncoder(folder, tokens=12)


def test_another_language_model_is_refused(language_model):
    """When the model is loaded, before any prompt."""
    card = HARTCard.of("hart-0.7b")
    card = attrs.evolve(card, config=attrs.evolve(card.config, patch_sides=SIDES))
    with pytest.raises(CheckpointError, match=r"reads text features of 40 channels; .* has 8: another language model"):
        card.load(weights=language_model('{"hidden_size": 8}'))


def test_without_transformers_the_extra_is_named(language_model, monkeypatch):
    """When a prompt is encoded."""
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    encoder = QwenEncoder(language_model('{"hidden_size": 40}') / "Qwen2-VL-1.5B-Instruct", tokens=12)
    with pytest.raises(MissingExtra, match=r"scalekv\[text\]"):
        encoder.encode(["a red circle"])


def test_an_unknown_hart_is_refused():
    """With the name that was probably meant."""
    with pytest.raises(UnknownName, match=r"no published HART is called 'hart-0\.7'; did you mean 'hart-0\.7b'"):
        HARTCard.of("hart-0.7")
