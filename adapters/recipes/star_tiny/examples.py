"""The training clips of the transformer, as features, made once: encoding a clip takes longer than learning from it.

A few captions are held out, to measure with: their colour, shape and direction occur in training, but never together.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor

from recipes.star_tiny.movies import movies
from recipes.star_tiny.tokenizing import to_model
from scalekv_adapters.infinitystar.tiny.captions import COLOURS, DIRECTIONS, SHAPES, Caption, every_caption
from scalekv_adapters.infinitystar.tiny.network import PYRAMIDS, SIDE
from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer

__all__ = ["FRAMES", "Examples", "held_out", "taught", "write_part"]

FRAMES = 1 + 4 * (PYRAMIDS.latent_frames - 1)


def held_out() -> list[Caption]:
    """The captions that no training clip shows.

    >>> len(held_out()), str(held_out()[0])
    (8, 'a red circle moves right')
    """
    return [caption for caption in every_caption() if _number(caption) % 6 == 0]


def taught() -> list[Caption]:
    """All other captions."""
    return [caption for caption in every_caption() if _number(caption) % 6]


def _number(caption: Caption) -> int:
    places = (
        list(COLOURS).index(caption.colour),
        SHAPES.index(caption.shape),
        list(DIRECTIONS).index(caption.direction),
    )
    return places[0] + 2 * places[1] + places[2]


@torch.no_grad()
def write_part(folder: Path, part: int, tokenizer: VideoTokenizer) -> None:
    """Writes the features of one clip for each caption that is taught; what is there already stays."""
    path = _path(folder, part)
    if path.exists():
        return
    source = torch.Generator().manual_seed(7_000_000 + part)
    clips = to_model(movies(taught(), FRAMES, SIDE, source))
    features = torch.cat([tokenizer.encode_features(clip) for clip in clips.split(4)])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(features.half(), path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def _path(folder: Path, part: int) -> Path:
    return folder / "features" / f"{part:04}.pt"


@frozen(eq=False)
class Examples:
    """Captions, and features (parts, captions, C, t, h, w) in float16 of clips that show them."""

    captions: list[str]
    features: Tensor

    @classmethod
    def read(cls, folder: Path, parts: int) -> Examples:
        """So many parts.

        Raises:
            FileNotFoundError: a part has not been made.
        """
        missing = [part for part in range(parts) if not _path(folder, part).exists()]
        if missing:
            raise FileNotFoundError(
                f"{_path(folder, missing[0])} does not exist; run the stage 'features' with the same --out and --parts first"
            )
        read = [torch.load(_path(folder, part), weights_only=True) for part in range(parts)]
        return cls([str(caption) for caption in taught()], torch.stack(read))

    def some(self, count: int, source: torch.Generator) -> tuple[list[str], Tensor]:
        """So many captions and their features (B, C, t, h, w) float32."""
        parts, captions = self.features.shape[:2]
        part = torch.randint(parts, (count,), generator=source)
        which = torch.randint(captions, (count,), generator=source)
        return [self.captions[i] for i in which.tolist()], self.features[part, which].float()
