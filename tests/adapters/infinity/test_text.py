"""Text features equal T5's, are computed once, and do not depend on other prompts; mistakes end in one line.

The T5 is a random one of a few thousand weights, made and read by transformers as the published one is.
"""

from __future__ import annotations

import builtins
import threading
import weakref
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from scalekv_adapters.kept_features import cache_folder
from scalekv_adapters.t5 import LONGEST_PROMPT, T5Encoder
from scalekv_core.errors import CheckpointError, InputError, MissingExtra, NonFiniteError

PROMPTS = ("a cat", "a dog on a mat")
WIDTH = 16


def save_t5(folder: Path, *, seed: int = 0, width: int = WIDTH) -> Path:
    """Writes a random T5 as save_pretrained does: config, weights, and a tokenizer of letters."""
    torch.manual_seed(seed)
    sizes = {"d_model": width, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 30}
    transformers.T5EncoderModel(transformers.T5Config(**sizes, feed_forward_proj="gated-gelu")).save_pretrained(folder)
    special = ("<pad>", "</s>", "<unk>")
    pieces = [(piece, 0.0) for piece in special] + [(piece, -3.0) for piece in "▁abcdefghijklmnopqrstuvwxyz"]
    letters = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    letters.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    letters.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = dict(zip(("pad_token", "eos_token", "unk_token"), special, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=letters, **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a T5."""
    return save_t5(tmp_path_factory.mktemp("models") / "flan-t5-tiny")


@pytest.fixture
def encoder(t5: Path, tmp_path: Path) -> T5Encoder:
    """An encoder without stored features."""
    return T5Encoder(t5, cache=tmp_path / "kept")


@pytest.fixture
def no_t5(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers as if it were not installed."""
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.partition(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    """The message, if it is of one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def test_features_are_the_last_hidden_states(encoder: T5Encoder, t5: Path) -> None:
    """As in the official code: padded to 512 tokens, masked, and cut to the prompt with its end token."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(t5)
    model = transformers.T5EncoderModel.from_pretrained(t5).eval()
    padded = tokenizer(list(PROMPTS), max_length=512, padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**padded).last_hidden_state
    lens = padded["attention_mask"].sum(dim=1).tolist()

    got = encoder.encode(PROMPTS)
    assert [(length, WIDTH) for length in lens] == [tuple(features.shape) for features in got]
    for features, rows, length in zip(got, hidden, lens, strict=True):
        torch.testing.assert_close(features, rows[:length], atol=1e-5, rtol=1e-5)


def test_a_prompt_does_not_depend_on_the_others(encoder: T5Encoder, t5: Path, tmp_path: Path) -> None:
    """Features are bit-equal whatever else is encoded in the same call."""
    together = encoder.encode(PROMPTS)
    alone = T5Encoder(t5, cache=tmp_path / "elsewhere").encode(PROMPTS[1:])

    assert torch.equal(together[1], alone[0])


def test_a_new_prompt_wants_transformers(encoder: T5Encoder, no_t5: None) -> None:
    """Without transformers the error names the extra."""
    with pytest.raises(MissingExtra) as error:
        encoder.encode(PROMPTS)
    wanted = "encoding a prompt with T5 needs transformers, which is not installed; run: pip install 'scalekv[text]'"
    assert wanted == one_line(error)


def test_features_are_kept(encoder: T5Encoder, t5: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Stored features are read from the disk without transformers, in the order of the prompts."""
    made = encoder.encode(PROMPTS)
    request.getfixturevalue("no_t5")
    later = T5Encoder(t5, cache=tmp_path / "kept").encode([PROMPTS[1], PROMPTS[0], PROMPTS[1]])

    assert all(torch.equal(made[i], features) for i, features in zip((1, 0, 1), later, strict=True))
    assert 2 == len(list((tmp_path / "kept").rglob("*.safetensors")))


def test_another_t5_has_features_of_its_own(encoder: T5Encoder, tmp_path: Path) -> None:
    """Other weights of the same sizes, or another dtype, have their own stored features."""
    other = T5Encoder(save_t5(tmp_path / "flan-t5-tiny", seed=1), cache=tmp_path / "kept")
    half = T5Encoder(encoder.folder, cache=tmp_path / "kept", dtype=torch.bfloat16)
    same = T5Encoder(encoder.folder, cache=tmp_path / "kept")

    assert encoder.fingerprint == same.fingerprint
    assert 3 == len({encoder.fingerprint, other.fingerprint, half.fingerprint})
    assert not torch.equal(encoder.encode(PROMPTS)[0], other.encode(PROMPTS)[0])


def test_half_precision_stays_half_on_the_disk(t5: Path, tmp_path: Path) -> None:
    """Features are returned in float32 and stored in T5's dtype."""
    features = T5Encoder(t5, cache=tmp_path, dtype=torch.bfloat16).encode(PROMPTS[:1])[0]
    (file,) = tmp_path.rglob("*.safetensors")

    assert (torch.float32, torch.bfloat16) == (features.dtype, load_file(file)["features"].dtype)
    assert torch.equal(features.bfloat16().float(), features)


def test_t5_is_let_go(encoder: T5Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """T5 is loaded once for all new prompts of a call and released afterwards."""
    loaded = []
    load = encoder._load

    def watched(module):
        model = load(module)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(encoder, "_load", watched)
    encoder.encode(PROMPTS)
    encoder.encode(PROMPTS)
    assert 1 == len(loaded)
    assert loaded[0]() is None


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(encoder: T5Encoder, prompt: str) -> None:
    """An empty prompt is refused, since T5 would encode its end token alone."""
    with pytest.raises(InputError) as error:
        encoder.encode(["a cat", prompt])
    assert "prompt 2 of 2 is empty; describe the image in words" == one_line(error)


def test_too_long_a_prompt_is_refused(encoder: T5Encoder) -> None:
    """The longest prompt works; a longer one is refused, not cut, and nothing of that call is stored."""
    letters = LONGEST_PROMPT - 2  # one token begins the word, one ends the prompt
    with pytest.raises(InputError) as error:
        encoder.encode(["a cat", "x" * (letters + 1)])
    assert f"a prompt has at most {LONGEST_PROMPT} text tokens; '{'x' * 40}'... has 513: shorten it" == one_line(error)
    assert not list(encoder.kept.file_of("a cat").parent.glob("*"))
    assert (LONGEST_PROMPT, WIDTH) == encoder.encode(["x" * letters])[0].shape


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer.json or spiece.model"),
        ("model.safetensors", r"weights \(.safetensors or .bin\)"),
    ],
)
def test_an_incomplete_folder_says_what_it_lacks(tmp_path: Path, gone: str, said: str) -> None:
    """The error names the missing files and where to get them, before anything is loaded."""
    folder = save_t5(tmp_path / "t5")
    (folder / gone).unlink()

    with pytest.raises(CheckpointError, match=rf"the T5 folder {folder} lacks {said}; put the files of https://"):
        T5Encoder(folder)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """The error lists everything that the folder needs."""
    with pytest.raises(CheckpointError, match=r"nowhere lacks config\.json, tokenizer\.json or spiece\.model, weights"):
        T5Encoder(tmp_path / "nowhere")


@pytest.mark.parametrize(("file", "what"), [("model.safetensors", "model"), ("tokenizer.json", "tokenizer")])
def test_a_damaged_t5_is_one_line(tmp_path: Path, file: str, what: str) -> None:
    """A damaged T5 ends in one line, whatever transformers raises."""
    path = save_t5(tmp_path / "t5") / file
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(CheckpointError) as error:
        T5Encoder(tmp_path / "t5", cache=tmp_path / "kept").encode(PROMPTS)
    assert one_line(error).startswith(f"the {what} of the T5 in {tmp_path / 't5'} cannot be loaded: ")


def test_damaged_features_are_told(encoder: T5Encoder) -> None:
    """Damaged stored features are named, and not computed again silently."""
    encoder.encode(PROMPTS)
    path = encoder.kept.file_of(PROMPTS[0])
    path.write_bytes(path.read_bytes()[:-4])

    with pytest.raises(CheckpointError, match=r"stored text features .* are damaged .*; delete that file"):
        encoder.encode(PROMPTS)


def test_features_of_another_prompt_are_not_taken(encoder: T5Encoder) -> None:
    """The stored file names its prompt, which must match."""
    path = encoder.kept.file_of("a cat")
    path.parent.mkdir(parents=True)
    save_file({"features": torch.zeros(1, WIDTH)}, path, metadata={"prompt": "a dog"})

    assert encoder.encode(["a cat"])[0].any()


def test_a_cache_that_cannot_be_written_is_told(t5: Path, tmp_path: Path) -> None:
    """The error says how to choose another folder."""
    (tmp_path / "file").touch()

    with pytest.raises(
        InputError, match=r"text features cannot be stored in .*; set \$SCALEKV_CACHE to another folder"
    ):
        T5Encoder(t5, cache=tmp_path / "file").encode(PROMPTS)


def test_a_cache_that_cannot_be_written_is_told_before_t5_runs(
    t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be written is refused before T5 runs."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(T5Encoder, "_load", lambda *_: pytest.fail("T5 was loaded"))

    with pytest.raises(
        InputError, match=r"text features cannot be stored in .*; set \$SCALEKV_CACHE to another folder"
    ):
        T5Encoder(t5, cache=tmp_path / "file").encode(["a cat"])


def test_a_user_without_a_home_needs_the_variable_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without a home directory, as in a container, only has to set the variable."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("SCALEKV_CACHE", str(tmp_path))
    assert tmp_path / "text" == cache_folder()

    monkeypatch.delenv("SCALEKV_CACHE")
    with pytest.raises(InputError, match=r"this user has no home; set \$SCALEKV_CACHE to a folder"):
        cache_folder()


def test_the_cache_lies_where_caches_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Features are stored in the user's cache folder, or in the folder that the environment names."""
    monkeypatch.delenv("SCALEKV_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tmp_path / "scalekv" / "text" == cache_folder()
    monkeypatch.setenv("SCALEKV_CACHE", str(tmp_path / "mine"))
    assert tmp_path / "mine" / "text" == cache_folder()


def test_four_threads_load_t5_once(t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four threads one loads T5; the others wait and read what it stored."""
    loaded, made, load = [], {}, T5Encoder._load
    monkeypatch.setattr(T5Encoder, "_load", lambda self, module: loaded.append(self) or load(self, module))
    encoder = T5Encoder(t5, cache=tmp_path / "kept")
    together = threading.Barrier(4)

    def encode(number: int) -> None:
        together.wait()
        made[number] = encoder.encode(PROMPTS)

    threads = [threading.Thread(target=encode, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 1 == len(loaded)
    assert all(torch.equal(a, b) for features in made.values() for a, b in zip(made[0], features, strict=True))
    assert 4 == len(made)


def test_features_that_are_not_finite_are_refused(t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that are not finite are refused when computed and when read; an option accepts them."""
    encoder, allowing = (T5Encoder(t5, cache=tmp_path / "kept", allow_nonfinite=allow) for allow in (False, True))
    damaged = lambda model, tokens: torch.full((len(tokens), WIDTH), torch.nan)  # noqa: E731
    monkeypatch.setattr("scalekv_adapters.t5._features", damaged)
    with pytest.raises(NonFiniteError) as error:
        encoder.encode(PROMPTS)
    assert "features that are not finite (NaN or infinity) for the prompt 'a cat'" in one_line(error)
    assert not list(tmp_path.rglob("*.safetensors"))

    assert all(features.isnan().all() for features in allowing.encode(PROMPTS))
    with pytest.raises(CheckpointError) as error:
        encoder.encode(PROMPTS)
    assert one_line(error).endswith("are not finite (NaN or infinity); delete that file")
    assert 2 == len(allowing.encode(PROMPTS))
