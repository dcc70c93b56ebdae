"""What star-tiny is made of: its sizes, what it passes, and the transformer with the text encoder that was trained beside it.

Transformer and tokenizer are the published ones at another size: same code, same names of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.generation import InfinityStar
from scalekv_adapters.infinitystar.pyramids import Pyramids
from scalekv_adapters.infinitystar.tiny.captions import LENGTH, WORDS, parse
from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_adapters.infinitystar.tokenizer_config import VideoTokenizerConfig

__all__ = ["PYRAMIDS", "SIDE", "SIZES", "TOKENIZER_SIZES", "TinyStar", "WordEncoder"]

PYRAMIDS = Pyramids(
    grids=((1, 1), (2, 2), (3, 3), (6, 6)),
    frames=(1, 4, 4),
    repeats=((2, 2, 2, 2),) * 3,
    semantic_scales=3,
)
"""The first frame and two clips after it, of 16 frames each. The last map is passed twice, so that the next clip, which reads
what was known before its last pass, knows the details."""

TOKENIZER_SIZES = VideoTokenizerConfig(widths=(8, 16, 32, 32), blocks=1)
SIZES = InfinityStarConfig(depth=6, width=192, heads=6, kv_heads=2, hidden=384, chunks=2, text_width=64, text_window=16)
SIDE = PYRAMIDS.whole[0] * TOKENIZER_SIZES.stride
"""Pixels of a side of its frames."""


class WordEncoder(nn.Module):
    """Captions to features: a vector for each word. What the words mean together is the transformer's business."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), width)

    def forward(self, captions: Sequence[str]) -> Tensor:
        """Features (B, 5, width) of captions. Differentiable.

        Raises:
            InputError: a word is unknown, or the words are no caption.
        """
        ids = [[WORDS.index(word) for word in str(parse(caption)).split()] for caption in captions]
        out: Tensor = self.words(torch.tensor(ids, device=self.words.weight.device))
        return out


class TinyStar(nn.Module):
    """The transformer and its text encoder; they are trained, averaged and shipped as one."""

    def __init__(self, sizes: InfinityStarConfig = SIZES, tokenizer: VideoTokenizer | None = None) -> None:
        super().__init__()
        self.transformer = InfinityStar(sizes, tokenizer, pyramids=PYRAMIDS, text_tokens=LENGTH)
        self.text = WordEncoder(sizes.text_width)

    @classmethod
    def of(cls, sizes: dict[str, Any], tokenizer: VideoTokenizer) -> TinyStar:
        """Of the sizes in the header of the shipped file."""
        return cls(InfinityStarConfig(**sizes), tokenizer)
