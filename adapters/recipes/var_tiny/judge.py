"""A small network that reads digits: it measures the generated images.

It learns from digits that the generator never saw, so it rewards what is legible, not what is memorised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.shipped import fill_shipped, read_shipped

__all__ = ["Judge", "accuracy", "judge_loss", "load_judge", "recognised"]


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


class Judge(nn.Module):
    """Three convolutional stages and a linear head; 32x32 grey images in, ten logits out.

    Args:
        width: channels of the first stage.
        dropout: applied before the head, in training only.

    >>> Judge(width=8)(torch.zeros(2, 1, 32, 32)).shape
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


def load_judge(device: str | torch.device = "cpu") -> Judge:
    """The trained judge, in evaluation mode.

    >>> load_judge()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    sizes, weights = read_shipped("recipes.var_tiny", "judge")
    judge = Judge(**sizes)
    fill_shipped(judge, weights)
    return judge.to(device)


@torch.no_grad()
def recognised(judge: Judge, images: Tensor, labels: Tensor, *, batch: int = 250) -> Tensor:
    """Returns (N,) bool: does the judge read each image as its label?

    Args:
        judge: in evaluation mode.
        images: (N, 1 or 3, 32, 32) in [0, 1].
        labels: (N,).
        batch: images per forward pass.

    >>> recognised(Judge(width=8).eval(), torch.zeros(3, 3, 32, 32), torch.zeros(3)).dtype
    torch.bool
    """
    read = torch.cat([judge(part).argmax(1) for part in images.split(batch)])
    return read == labels


def accuracy(judge: Judge, images: Tensor, labels: Tensor) -> float:
    """Returns the share of images that the judge reads as their label; arguments as `recognised`.

    >>> judge = Judge(width=8).eval()
    >>> 0 <= accuracy(judge, torch.zeros(3, 1, 32, 32), torch.tensor([0, 1, 2])) <= 1
    True
    """
    return recognised(judge, images, labels).float().mean().item()


def judge_loss(judge: Judge, images: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross entropy with a little label smoothing, a scalar.

    >>> judge_loss(Judge(width=8), torch.zeros(2, 1, 32, 32), torch.tensor([1, 2])).shape
    torch.Size([])
    """
    return F.cross_entropy(judge(images), labels, label_smoothing=0.05)
