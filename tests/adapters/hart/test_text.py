"""Text features by a tiny language model of random weights, in a folder as the hub has them."""

from __future__ import annotations

import pytest
import torch

from scalekv_adapters.hart.text import QwenEncoder
from scalekv_core.errors import CheckpointError, InputError

transformers = pytest.importorskip("transformers")
WORDS = ["<pad>", "<unk>", "draw", "this", "a", "red", "circle", "blue", "square"]
TOKENS, WIDTH = 6, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Config, tokenizer, weights, and the system prompt ``draw this``."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("model")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(path)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.GPTNeoXConfig(vocab_size=len(WORDS), **sizes)  # one whose tokenizer may be any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.GPTNeoXModel(config).save_pretrained(path)
    (path / "system_prompt.txt").write_text("draw this")
    return path


def test_features_stand_behind_the_system_prompt(folder):
    """They are the last hidden states of the prompt's own tokens, padded to the text window; a causal model sees no padding."""
    context = QwenEncoder(folder, tokens=TOKENS).encode(["a red circle", "a blue square"])
    assert (2, TOKENS, WIDTH) == context.features.shape
    assert [[True] * 3 + [False] * 3] * 2 == context.real.tolist()
    model = transformers.GPTNeoXModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[WORDS.index(word) for word in ["draw", "this", "a", "red", "circle"]]])
    with torch.inference_mode():
        expected = model(input_ids=ids).last_hidden_state[0, 2:]
    torch.testing.assert_close(context.features[0, :3], expected, rtol=1e-4, atol=1e-5)


def test_the_same_prompts_are_encoded_once(folder, monkeypatch):
    """The language model is not loaded for a prompt that is known."""
    encoder = QwenEncoder(folder, tokens=TOKENS)
    first = encoder.encode(["a red circle"])
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", None)
    assert torch.equal(first.features, encoder.encode(["a red circle"]).features)


def test_a_prompt_that_is_too_long_is_refused(folder):
    """In one line, before the language model is loaded."""
    with pytest.raises(InputError, match="at most 6 text tokens; 'a a a a a a a' has 7: shorten it"):
        QwenEncoder(folder, tokens=TOKENS).encode(["a a a a a a a"])


def test_what_is_missing_is_named(folder, tmp_path):
    """The config, the system prompt, and what is no language model."""
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read .*give the folder of a language model"):
        QwenEncoder(tmp_path, tokens=TOKENS)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(
        CheckpointError, match=r"system_prompt\.txt cannot be read .*; put the constant llm_system_prompt"
    ):
        QwenEncoder(tmp_path, tokens=TOKENS)
    (tmp_path / "system_prompt.txt").write_text("draw this")
    with pytest.raises(CheckpointError, match=r"the language model in .* cannot be loaded"):
        QwenEncoder(tmp_path, tokens=TOKENS).encode(["a red circle"])
