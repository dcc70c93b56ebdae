"""Prompts to text features by a language model, as the published HART reads them, through transformers (extra ``text``).

A system prompt stands in front of every prompt, and the features of its own tokens are left out. It is read from ``system_prompt.txt`` in the
language model's folder, since it is part of what the weights were trained with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalekv_adapters.hart.context import Context
from scalekv_core.errors import CheckpointError, InputError, first_line, missing_extra, shortened

SYSTEM_PROMPT = "system_prompt.txt"
SOURCE = "the constant llm_system_prompt of https://github.com/mit-han-lab/hart, hart/utils/constants.py"


class QwenEncoder:
    """A language model in a folder, as `scalekv_adapters.hart.context.TextEncoder`.

    Args:
        folder: its config, tokenizer and weights, and ``system_prompt.txt``.
        tokens: of every prompt, padding included.
        device: where it runs when it runs; it is let go of right after.
        dtype: in which it runs; float16, except on a CPU, where that is float32.

    Raises:
        CheckpointError: there is no language model in the folder, or no system prompt.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tokens: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.folder, self.tokens, self.device = Path(folder), tokens, torch.device(device)
        self.dtype = dtype or (torch.float32 if self.device.type == "cpu" else torch.float16)
        self.width = _width_of(self.folder)
        self.system = _read(self.folder / SYSTEM_PROMPT, f"put {SOURCE} there")
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def encode(self, prompts: Sequence[str]) -> Context:
        """The text of the prompts, on the CPU; the same prompts are encoded once.

        Raises:
            InputError: a prompt is longer than the text window.
            MissingExtra: transformers is not installed.
            CheckpointError: the language model cannot be loaded.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        known = {**self._known, **(self._compute(new) if new else {})}
        self._known = {prompt: known[prompt] for prompt in prompts}
        features, real = zip(*(known[prompt] for prompt in prompts), strict=True)
        return Context(torch.stack(features), torch.stack(real))

    def _compute(self, prompts: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        try:
            import transformers
        except ImportError:
            raise missing_extra("transformers", "text", "encoding a prompt with a language model") from None
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            ids = {prompt: self._ids(tokenizer, prompt) for prompt in prompts}
            system = torch.tensor(tokenizer(self.system)["input_ids"])
            model = transformers.AutoModel.from_pretrained(self.folder, dtype=self.dtype, local_files_only=True)
        except InputError:
            raise
        except Exception as error:  # whatever transformers raises at the sight of damaged files
            reason = first_line(error, type(error).__name__)
            raise CheckpointError(f"the language model in {self.folder} cannot be loaded: {reason}") from error
        model = model.to(self.device).eval()
        return {prompt: self._features(model, system, *both) for prompt, both in ids.items()}

    def _ids(self, tokenizer: Any, prompt: str) -> tuple[Tensor, Tensor]:
        """(T,) text tokens, padded as the tokenizer does it, and which of them are real."""
        if (number := len(tokenizer(prompt, verbose=False)["input_ids"])) > self.tokens:
            raise InputError(
                f"a prompt has at most {self.tokens} text tokens; {shortened(prompt)} has {number}: shorten it"
            )
        ids = torch.tensor(tokenizer(prompt, padding="max_length", max_length=self.tokens)["input_ids"])
        return ids, ids != tokenizer.pad_token_id

    @torch.inference_mode()
    def _features(self, model: Any, system: Tensor, ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """(T, C) the last hidden states of a prompt behind the system prompt, and which tokens are real."""
        both = torch.cat((system, ids))[None].to(self.device)
        mask = torch.cat((torch.ones_like(system), real.to(system.dtype)))[None].to(self.device)
        hidden: Tensor = model(input_ids=both, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        return hidden[0, len(system) :].float().cpu(), real


def _width_of(folder: Path) -> int:
    """Channels of the language model's hidden states, as its config tells; CheckpointError if there is none."""
    text = _read(folder / "config.json", "give the folder of a language model")
    try:
        config = json.loads(text)
        width = config.get("hidden_size", config.get("text_config", {}).get("hidden_size"))
    except (ValueError, AttributeError):  # no JSON, or no object
        width = None
    if not isinstance(width, int):
        raise CheckpointError(
            f"{folder / 'config.json'} does not tell a hidden_size; give the folder of a language model"
        )
    return width


def _read(path: Path, otherwise: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); {otherwise}") from None
