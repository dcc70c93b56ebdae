"""Decoding a batch in parts: the image decoder takes more memory a pixel than all the rest, and gains nothing by a large batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PIXELS_AT_ONCE = 2**20
"""One image of 1024 x 1024, or sixteen of 256 x 256."""


def decode_in_parts(decode: Callable[[Tensor], Tensor], latents: Tensor, *, stride: int) -> Tensor:
    """The images (B, 3, H, W) of latents (B, C, h, w), of so many at once as make `PIXELS_AT_ONCE`, but at least of one.

    Args:
        decode: makes the images of some latents.
        latents: of the batch.
        stride: pixels along each side of one position.

    >>> decode_in_parts(lambda x: x + 1, torch.zeros(3, 1, 2, 2), stride=1024).shape
    torch.Size([3, 1, 2, 2])
    """
    pixels = latents.shape[-2] * latents.shape[-1] * stride**2
    parts = latents.split(max(1, PIXELS_AT_ONCE // pixels))
    if len(parts) == 1:
        return decode(latents)
    return torch.cat(_on_meta(decode, parts) if latents.is_meta else [decode(part) for part in parts])


def _on_meta(decode: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    """The same without values: beside all parts before them the last two are decoded, and no others take more."""
    *earlier, full, last = parts
    one = decode(full[:1])
    return [one.new_empty((len(part), *one.shape[1:])) for part in earlier] + [decode(full), decode(last)]


def most_weights(base: int, multipliers: Sequence[int], blocks: int) -> int:
    """Numbers in the weights of an autoencoder, at most: as if every level had the width of the widest.

    A residual block has two 3 x 3 convolutions, a shortcut and perhaps attention; each level has one block more in the decoder
    and a convolution that changes the sides; in the middle there are two blocks.
    """
    width = base * max(multipliers)
    per_block = (9 + 9 + 1 + 4) * width * (width + 1)
    return 2 * (len(multipliers) * (blocks + 2) + 2) * per_block


def most_decoding(base: int, pixels: int) -> int:
    """Numbers alive at most while an image of so many pixels is decoded: ten maps of the first level's width; a wider level has
    fewer positions by at least as much."""
    return 10 * base * pixels
