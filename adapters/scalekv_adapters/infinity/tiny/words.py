"""The text encoder of infinity-tiny: words to features in which a noun knows its colour and its place in the caption.

It is part of the model and trained with it. A word is told of its neighbours layer by layer, so that "red" and "circle" of
one thing meet before attention ever sees them; a bag of words would leave open which colour belongs to which shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.tiny.captions import WORDS, parse

__all__ = ["LONGEST", "WordEncoder", "most_words"]

LONGEST = 8
"""Words of the longest caption."""

_REACH = 2
"""Words to either side that one layer reads."""


class Neighbours(nn.Module):
    """Adds to every word what a small network makes of it and its neighbours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mix = nn.Linear((2 * _REACH + 1) * channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """(B, n, C) of words x (B, n, C), those that are there (B, n, 1); absent ones are zeros to their neighbours."""
        wide = F.pad(self.norm(x) * there, (0, 0, _REACH, _REACH))
        around = torch.cat([wide[:, i : i + x.shape[1]] for i in range(2 * _REACH + 1)], dim=2)
        out: Tensor = x + self.out(F.gelu(self.mix(around)))
        return out


class WordEncoder(nn.Module):
    """Captions to features, one per word.

    Args:
        channels: C, width of the features.
        depth: how many layers; each carries news two words further.
    """

    def __init__(self, channels: int, depth: int = 3) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), channels)
        self.neighbours = nn.ModuleList(Neighbours(channels) for _ in range(depth))

    def forward(self, captions: Sequence[str]) -> PackedText:
        """The features of captions, packed. Differentiable.

        Raises:
            InputError: a word is unknown, or the words are no caption.
        """
        rows = [torch.tensor([WORDS.index(word) for word in str(parse(text)).split()]) for text in captions]
        lens = [len(row) for row in rows]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.words.weight.device)
        there = (torch.arange(ids.shape[1]) < torch.tensor(lens)[:, None]).to(ids.device)
        x = self.words(ids)
        for layer in self.neighbours:
            x = layer(x, there[..., None])
        return PackedText(x[there], lens)

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features (L_i, C) of each prompt; InputError if one has an unknown word, or is no caption.

        >>> [tuple(features.shape) for features in WordEncoder(32).encode(["a red circle", "two squares"])]
        [(3, 32), (2, 32)]
        """
        text = self(prompts)
        return list(text.features.split(text.lens))


def most_words(channels: int, depth: int) -> int:
    """Numbers in the weights of a word encoder, at most."""
    return channels * (len(WORDS) + depth * (2 * _REACH + 2) * (channels + 4))
