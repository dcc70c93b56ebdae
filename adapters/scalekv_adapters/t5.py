"""Prompts to text features by T5, through transformers (extra ``text``).

T5 is larger than many image models and is needed for a moment only. So features are kept on disk, a file per prompt; T5 is
loaded where a prompt is new, and let go of right after.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalekv_adapters.kept_features import KeptFeatures, cache_folder
from scalekv_core.errors import CheckpointError, InputError, NonFiniteError, first_line, missing_extra, shortened

LONGEST_PROMPT = 512
"""Text tokens that T5 was trained with, and that the published models read."""
T5_REPOSITORY = "google/flan-t5-xl"
T5_FILES = ("config.json", "tokenizer*", "special_tokens_map.json", "spiece.model", "model*.safetensors*")
SOURCE = f"https://huggingface.co/{T5_REPOSITORY}"
T5_WEIGHTS = 1_223_527_424
"""Parameters of the encoder of flan-t5-xl, which reads the prompts of the published models."""
_SAMPLE = 2**16  # bytes of a weights file that tell it from another, at each of _SAMPLES places
_SAMPLES = 16
_COMPUTING = threading.Lock()
"""One T5 at a time: threads that ask for the same prompts wait for the first, and read what it kept."""


class T5Encoder:
    """A T5 in a folder, as a text encoder.

    Args:
        folder: what ``save_pretrained`` or the hub made of a T5: its config, tokenizer and weights.
        cache: where features are kept; `cache_folder()` by default.
        device: where T5 runs when it runs.
        dtype: in which it runs; float16, as in the published runs, except on a CPU, where that is float32.
        allow_nonfinite: accept features that hold NaN or infinity.

    Raises:
        CheckpointError: there is no T5 in the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cache: Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        allow_nonfinite: bool = False,
    ) -> None:
        self.folder = check_folder(Path(folder))
        self.device = torch.device(device)
        self.dtype = dtype or (torch.float32 if self.device.type == "cpu" else torch.float16)
        self._cache = cache or cache_folder()
        self._allow_nonfinite = allow_nonfinite

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features (L_i, C) of each prompt, float32, on the CPU; those of a prompt do not depend on the others.

        Raises:
            InputError: a prompt is empty, or longer than 512 text tokens.
            MissingExtra: a prompt is new and transformers is not installed.
            CheckpointError: T5 cannot be loaded, or what was kept of a prompt is damaged or not finite.
            NonFiniteError: T5 computed NaN or infinity.
        """
        if empty := [i for i, prompt in enumerate(prompts, 1) if not prompt.strip()]:
            raise InputError(f"prompt {empty[0]} of {len(prompts)} is empty; describe the image in words")
        known = {prompt: self.kept.read(prompt) for prompt in dict.fromkeys(prompts)}
        if any(features is None for features in known.values()):
            with _COMPUTING:
                known = {prompt: self.kept.read(prompt) for prompt in known}
                if new := [prompt for prompt, features in known.items() if features is None]:
                    known |= self._compute(new)
        return [features.float() for prompt in prompts if (features := known[prompt]) is not None]

    @cached_property
    def fingerprint(self) -> str:
        """Tells this T5, run in this dtype, from others: its config and tokenizer, and samples of its weights."""
        digest = hashlib.sha256(str(self.dtype).encode())
        for file in sorted(entry for entry in self.folder.iterdir() if entry.suffix in (".json", ".model", *_WEIGHTS)):
            digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode())
            digest.update(_sample(file))
        return digest.hexdigest()[:32]

    @cached_property
    def kept(self) -> KeptFeatures:
        """What this T5 has computed already."""
        return KeptFeatures(self._cache, self.fingerprint, self._allow_nonfinite)

    def _compute(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        self.kept.check_writable(_SAMPLE)  # T5 takes minutes
        with quiet_transformers() as transformers:
            ids = self._tokenized(transformers, prompts)
            model = self._load(transformers)
            computed = {prompt: _features(model, ids[prompt]) for prompt in prompts}
        for prompt, features in computed.items():
            if not self.kept.is_usable(features):
                raise NonFiniteError(
                    f"the T5 in {self.folder} computed features that are not finite (NaN or infinity) for the prompt "
                    f"{shortened(prompt)}: its weights are damaged, or overflow in {self.dtype}"
                )
        for prompt, features in computed.items():
            self.kept.write(prompt, features, source=self.folder.name)
        return computed

    def _tokenized(self, transformers: Any, prompts: Sequence[str]) -> Mapping[str, list[int]]:
        """The text tokens of every prompt, its end included; all are looked at before T5 is loaded."""
        with self._understood("tokenizer"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        ids = {prompt: tokenizer(prompt, truncation=False, verbose=False)["input_ids"] for prompt in prompts}
        for prompt, tokens in ids.items():
            if len(tokens) > LONGEST_PROMPT:
                raise InputError(
                    f"a prompt has at most {LONGEST_PROMPT} text tokens; {prompt[:40]!r}... has {len(tokens)}: shorten it"
                )
        return ids

    def _load(self, transformers: Any) -> Any:
        with self._understood("model"):
            model = transformers.T5EncoderModel.from_pretrained(self.folder, dtype=self.dtype, local_files_only=True)
        return model.to(self.device).eval()

    @contextlib.contextmanager
    def _understood(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever transformers raises at the sight of damaged files
            reason = first_line(error, type(error).__name__)
            raise CheckpointError(f"the {what} of the T5 in {self.folder} cannot be loaded: {reason}") from error


_WEIGHTS = (".safetensors", ".bin")


def check_folder(folder: Path) -> Path:
    """The same folder; CheckpointError unless it has what a T5 consists of."""
    has = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    parts = {
        "config.json": "config.json" in has,
        "tokenizer.json or spiece.model": bool(has & {"tokenizer.json", "spiece.model"}),
        "weights (.safetensors or .bin)": any(name.endswith(_WEIGHTS) for name in has),
    }
    if missing := [part for part, there in parts.items() if not there]:
        raise CheckpointError(
            f"the T5 folder {folder} lacks {', '.join(missing)}; put the files of {SOURCE} there, or of another T5"
        )
    return folder


@contextlib.contextmanager
def quiet_transformers() -> Iterator[Any]:
    """transformers, imported; without its progress bars during the block.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import transformers
        from transformers.utils import logging
    except ImportError:
        raise missing_extra("transformers", "text", "encoding a prompt with T5") from None
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        if shown:
            logging.enable_progress_bar()


@torch.inference_mode()
def _features(model: Any, tokens: Sequence[int]) -> Tensor:
    """(L, C) the last hidden states of a prompt that is alone, so without padding."""
    ids = torch.tensor([tokens], device=model.device)
    hidden: Tensor = model(input_ids=ids).last_hidden_state[0]
    return hidden.cpu()


def _sample(file: Path) -> bytes:
    """A small file, or samples all over a large one."""
    size = file.stat().st_size
    if size <= _SAMPLE * _SAMPLES:
        return file.read_bytes()
    with file.open("rb") as opened:
        parts = []
        for i in range(_SAMPLES):
            opened.seek((size - _SAMPLE) * i // (_SAMPLES - 1))
            parts.append(opened.read(_SAMPLE))
    return b"".join(parts)
