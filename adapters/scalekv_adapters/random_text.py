"""Text features where weights are random: real in size, and without meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core.errors import InputError


@frozen
class RandomText:
    """Stands for a text encoder where weights are random: one random feature per word, always the same for a prompt.

    Attributes:
        channels: of the features.
        longest: the most words that a prompt may have.
    """

    channels: int
    longest: int

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features (words, C) of each prompt; InputError if one has too many words."""
        return [self._features(prompt) for prompt in prompts]

    def _features(self, prompt: str) -> Tensor:
        words = len(prompt.split())
        if words > self.longest:
            raise InputError(f"with random weights a prompt has at most {self.longest} words; got {words}")
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "little") >> 1
        return torch.randn(words, self.channels, generator=torch.Generator().manual_seed(seed))
