"""How good var-tiny is, and how its layers attend: the figures of README.md.

The pictures are judged as they are drawn, with the full cache; a compressed cache is measured elsewhere, against these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scalekv_adapters.concat_cache import ConcatCache, Maps
from scalekv_adapters.var.transformer import VAR
from scalekv_adapters.var.vqvae import VQVAE

__all__ = ["current_map_mass", "draw_digits", "grid", "rebuild"]


def draw_digits(var: VAR, per_class: int, settings: Mapping[str, Any], *, batch: int = 50) -> tuple[Tensor, Tensor]:
    """Returns images (10 n, 3, 32, 32) in [0, 1] and their labels (10 n,): n of every class, seeds 0 to n - 1 for each.

    Args:
        var: with a VQVAE.
        per_class: n.
        settings: keyword arguments of `VAR.generate`.
        batch: images drawn at once; they do not depend on it.
    """
    labels = torch.arange(10).repeat_interleave(per_class)
    seeds = torch.arange(per_class).repeat(10)
    drawn = [
        var.generate(some, seeds=own.tolist(), **settings).images
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


def grid(images: Tensor, columns: int, *, zoom: int = 2) -> Image.Image:
    """Returns a picture of all images, row by row.

    >>> grid(torch.zeros(4, 3, 32, 32), columns=2).size
    (128, 128)
    """
    rows = [torch.cat(list(row), 2) for row in images.split(columns)]
    pixels = (torch.cat(rows, 1).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    picture = Image.fromarray(pixels.contiguous().numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


class _MeasuringCache(ConcatCache):
    """The full cache, which also notes how much attention stays on the current map."""

    mass: dict[tuple[int, int], Tensor]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float) -> Tensor:
        out = super().attend(layer, q, k, v, softmax_scale=softmax_scale)
        weights = (q @ self.keys[layer].mT * softmax_scale).softmax(-1)
        scale = sum(1 for seen, _ in self.mass if seen == layer)
        self.mass[layer, scale] = weights[..., -q.shape[2] :].sum(-1).mean((0, 2))  # (H,)
        return out


def current_map_mass(var: VAR, labels: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Returns (K, L, H): the share of attention that stays on the current map, per scale, layer and head.

    Means over one image per label (seeds 0, 1, ...), guided and unguided rows, and queries.

    Args:
        var: with a VQVAE.
        labels: (B,).
        settings: keyword arguments of `VAR.generate`.
    """
    mass: dict[tuple[int, int], Tensor] = {}

    def new_cache(maps: Maps) -> _MeasuringCache:
        cache = _MeasuringCache(maps)
        cache.mass = mass
        return cache

    before, var.new_cache = var.new_cache, new_cache
    try:
        var.generate(labels, seeds=range(len(labels)), **settings)
    finally:
        var.new_cache = before
    scales, layers = len(var.config.patch_sides), var.config.depth
    return torch.stack([torch.stack([mass[layer, scale] for layer in range(layers)]) for scale in range(scales)])
