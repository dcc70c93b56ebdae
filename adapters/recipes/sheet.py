"""A sheet of pictures, to look at what a model learnt."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor


def sheet(images: Tensor, columns: int, *, zoom: int = 2) -> Image.Image:
    """One picture of all images (N, 3, H, W) in [0, 1], row by row.

    >>> sheet(torch.zeros(4, 3, 32, 32), columns=2).size
    (128, 128)
    """
    rows = [torch.cat(list(row), 2) for row in images.split(columns)]
    pixels = (torch.cat(rows, 1).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    picture = Image.fromarray(pixels.contiguous().numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
