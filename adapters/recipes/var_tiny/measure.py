"""How good var-tiny is: the figures of README.md.

The images are those of the unmodified model; a compressed cache is measured elsewhere, against these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv_adapters.var.generation import VAR
from scalekv_adapters.var.tiny.judge import DigitReader, recognised
from scalekv_adapters.vqvae import VQVAE
from scalekv_core.models.sampling import Sampling

__all__ = ["accuracy", "draw_digits", "rebuild"]


def draw_digits(var: VAR, per_class: int, how: Sampling, *, batch: int = 50) -> tuple[Tensor, Tensor]:
    """Returns images (10 n, 3, 32, 32) in [0, 1] and their labels (10 n,): n of every class, seeds 0 to n - 1 for each.

    Args:
        var: with a VQVAE.
        per_class: n.
        how: tokens are sampled.
        batch: images generated at once; they do not depend on it.
    """
    labels = torch.arange(10).repeat_interleave(per_class)
    seeds = torch.arange(per_class).repeat(10)
    drawn = [
        var.generate(
            some,
            seeds=own.tolist(),
            guidance=how.strengths[0],
            top_k=how.top_k,
            top_p=how.top_p,
            temperature=how.temperature,
        ).images
        for some, own in zip(labels.split(batch), seeds.split(batch), strict=True)
    ]
    return torch.cat(drawn), labels


@torch.no_grad()
def rebuild(vqvae: VQVAE, images: Tensor, *, scales: int | None = None, batch: int = 100) -> Tensor:
    """Returns images (N, 3, H, W) in [0, 1] after encoding and decoding, from the first `scales` maps or from all.

    Args:
        vqvae: the model.
        images: (N, 3, H, W) in [-1, 1].
        scales: how many maps.
        batch: images per pass.
    """
    tokens = [vqvae.encode(part)[:scales] for part in images.split(batch)]
    return torch.cat([(vqvae.decode(vqvae.f_hats(maps)[-1]) + 1) / 2 for maps in tokens])


def accuracy(reader: DigitReader, images: Tensor, labels: Tensor) -> float:
    """Returns the share of images that are read as their label; arguments as `recognised`.

    >>> reader = DigitReader(width=8).eval()
    >>> 0 <= accuracy(reader, torch.zeros(3, 1, 32, 32), torch.tensor([0, 1, 2])) <= 1
    True
    """
    return recognised(reader, images, labels).float().mean().item()
