"""A small network that reads digits: it judges the images of var-tiny.

It learnt from digits that the generator never saw (adapters/recipes/var_tiny), so it rewards what is legible, not what is
memorised.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from scalekv_adapters.shipped import shipped
from scalekv_core.errors import InputError

__all__ = ["DigitReader", "load_reader", "recognised", "shows"]

SIDE = 32
"""Pixels of a side."""


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(4, outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.GroupNorm(4, outputs),
        nn.SiLU(),
        nn.MaxPool2d(2),
    )


class DigitReader(nn.Module):
    """Three convolutional stages and a linear head; 32x32 grey images in, ten logits out.

    Args:
        width: channels of the first stage.
        dropout: applied before the head, in training only.

    >>> DigitReader(width=8)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: int = 24, dropout: float = 0.3) -> None:
        super().__init__()
        self.stages = nn.Sequential(_stage(1, width), _stage(width, 2 * width), _stage(2 * width, 3 * width))
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(3 * width * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, 10).

        Args:
            images: (N, 1 or 3, 32, 32) in [0, 1], ink bright; colours are averaged.
        """
        grey = images.mean(1, keepdim=True)
        logits: Tensor = self.head(self.drop(self.stages(grey).flatten(1)))
        return logits


@cache
def load_reader() -> DigitReader:
    """The trained reader, on the CPU and in evaluation mode.

    >>> load_reader()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return shipped("scalekv_adapters.var.tiny", "judge", lambda sizes: DigitReader(**sizes))


@torch.no_grad()
def recognised(reader: DigitReader, images: Tensor, labels: Tensor, *, batch: int = 250) -> Tensor:
    """Returns (N,) bool: is each image read as its label?

    Args:
        reader: in evaluation mode.
        images: (N, 1 or 3, 32, 32) in [0, 1].
        labels: (N,).
        batch: images per forward pass.

    >>> recognised(DigitReader(width=8).eval(), torch.zeros(3, 3, 32, 32), torch.zeros(3)).dtype
    torch.bool
    """
    read = torch.cat([reader(part).argmax(1) for part in images.split(batch)])
    return read == labels


def shows(images: Tensor, prompts: Sequence[str]) -> list[bool]:
    """Whether each of N images (N, 3, 32, 32) in [0, 1] is read as the digit that its prompt asks for.

    Raises:
        InputError: they are of another size.
    """
    if images.shape[1:] != (3, SIDE, SIDE):
        raise InputError(f"the judge reads images of {SIDE} x {SIDE} pixels; got {tuple(images.shape[2:])}")
    labels = torch.tensor([int(prompt) for prompt in prompts])
    read: list[bool] = recognised(load_reader(), images.float().cpu(), labels).tolist()
    return read
