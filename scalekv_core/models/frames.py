"""Images and clips in one form: an image is a clip of one frame.

What a model generates is (B, 3, H, W), or (B, 3, F, H, W) where it generates clips of F frames.
"""

from __future__ import annotations

from torch import Tensor


def is_clip(images: Tensor) -> bool:
    """Whether these are clips, which have a dimension more than images."""
    return images.dim() == 5


def as_clips(images: Tensor) -> Tensor:
    """(B, 3, F, H, W) of images or clips; an image has one frame."""
    return images if is_clip(images) else images.unsqueeze(2)


def every_frame(images: Tensor) -> Tensor:
    """(B F, 3, H, W) of clips, frame by frame and clip by clip; images as they are.

    >>> import torch
    >>> clips = torch.arange(4).view(2, 1, 2, 1, 1)
    >>> every_frame(clips).flatten().tolist(), every_frame(clips[:, :, 0]).flatten().tolist()
    ([0, 1, 2, 3], [0, 2])
    """
    return images.transpose(1, 2).flatten(0, 1) if is_clip(images) else images


def mean_by_clip(figures: Tensor, images: int) -> Tensor:
    """(B,) of figures (B F,) of every frame: the mean over the frames of a clip.

    >>> import torch
    >>> mean_by_clip(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2).tolist()
    [2.0, 5.0]
    """
    return figures.view(images, -1).mean(dim=1)
