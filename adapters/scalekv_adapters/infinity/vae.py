"""Infinity's BSQ-VAE: images to maps of bits of growing size and back.

The maps are residual: each holds the signs of what the maps before it could not express. There is no codebook: the code of
d bits is a corner of the unit cube, scaled to length 1 (binary spherical quantisation). So a bit is learnt by itself.
Source: Han et al., Infinity, 2024 (arXiv 2412.04431), section 3.2; Zhao et al., BSQ, 2024 (arXiv 2406.07548).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isqrt
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.convnet import Decoder, Encoder
from scalekv_adapters.decoding import decode_in_parts
from scalekv_adapters.infinity.bits import Grid, add_bits, codes_of, grid_of, on_grid, to_tokens
from scalekv_adapters.infinity.convnet import parts
from scalekv_adapters.sizes import as_sizes, in_groups, positive
from scalekv_core.errors import InputError, unknown_name
from scalekv_core.models.weights import numbered, shape_of

PUBLISHED: dict[str, dict[str, Any]] = {
    "infinity-vae-d16": {"bits": 16},
    "infinity-vae-d32": {"bits": 32},
    "infinity-vae-d56-f8-14-patchify": {"bits": 14, "multipliers": (1, 2, 4, 4)},
}


@attrs.frozen(kw_only=True)
class BSQVAEConfig:
    """Sizes of a BSQ-VAE; the defaults are those of the published one of 32 bits.

    Attributes:
        bits: d, the bits of a position.
        base_channels: width of the highest resolution.
        multipliers: width of every level, in base channels; all levels but one halve the sides.
        blocks: residual blocks of a level of the encoder.
        fold: pixels a side that are folded into channels before the first convolution. No published VAE does; it makes a
            small one faster.

    >>> BSQVAEConfig.published("infinity-vae-d56-f8-14-patchify").stride
    8
    """

    bits: int = attrs.field(default=32, validator=positive)
    base_channels: int = attrs.field(default=128, validator=in_groups)
    multipliers: tuple[int, ...] = attrs.field(default=(1, 2, 4, 4, 4), converter=as_sizes, validator=positive)
    blocks: int = attrs.field(default=2, validator=positive)
    fold: int = attrs.field(default=1, validator=positive)

    @classmethod
    def published(cls, name: str) -> BSQVAEConfig:
        """The sizes of a published VAE, by its name; UnknownName if there is none."""
        if name not in PUBLISHED:
            raise unknown_name("published BSQ-VAE", name, PUBLISHED)
        return cls(**PUBLISHED[name])

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> BSQVAEConfig:
        """The sizes that a state dict with the official names has.

        Raises:
            CheckpointError: it is no complete BSQ-VAE.
        """
        width, folded, *_ = shape_of(state, "encoder.conv_in.conv.weight", 4)
        bits, *_ = shape_of(state, "encoder.conv_out.conv.weight", 4)
        levels = range(numbered(state, "encoder.down."))
        widths = [shape_of(state, f"encoder.down.{i}.block.0.conv1.conv.weight", 4)[0] for i in levels]
        return cls(
            bits=bits,
            base_channels=width,
            multipliers=[w // width for w in widths],
            blocks=numbered(state, "encoder.down.0.block."),
            fold=isqrt(folded // 3),
        )

    @property
    def stride(self) -> int:
        """Pixels a side of one position of the last map."""
        return self.fold * int(2 ** (len(self.multipliers) - 1))


class Quantizer(nn.Module):
    """Holds the powers of two that the checkpoints carry; bits need no table."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.lfq = nn.Module()
        self.lfq.register_buffer("mask", 2 ** torch.arange(bits - 1, -1, -1))


class BSQVAE(nn.Module):
    """Multi-scale BSQ-VAE. Images are (B, 3, H, W) in [-1, 1], latents (B, d, H/s, W/s) with s the config's stride.

    Sums and signs are taken in float32 whatever the dtype of the weights: a rounded residual would flip bits.
    """

    def __init__(self, config: BSQVAEConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (config.base_channels, config.multipliers, config.blocks, config.bits, parts(config.fold))
        self.encoder = Encoder(*sizes)
        self.decoder = Decoder(*sizes)
        self.quantizer = Quantizer(config.bits)
        self.quantize = self.quantizer  # the checkpoints hold it under both names

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.decoder.get_parameter("conv_in.conv.weight").dtype

    def grid(self, height: int, width: int) -> Grid:
        """The last grid of an image of these sides in pixels.

        Raises:
            InputError: the stride does not divide them.
        """
        stride = self.config.stride
        if min(height, width) < 1 or height % stride or width % stride:
            raise InputError(f"BSQVAE needs sides that are multiples of {stride} pixels, got {height} x {width}")
        return height // stride, width // stride

    # images <-> latents

    def encode_features(self, images: Tensor) -> Tensor:
        """Features (B, d, H/s, W/s) float32 of images (B, 3, H, W) in [-1, 1]. Differentiable."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise InputError(f"BSQVAE.encode needs images (B, 3, H, W), got {tuple(images.shape)}")
        self.grid(*grid_of(images))
        features: Tensor = self.encoder(images.to(self.dtype))
        return features.float()

    def decode_features(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) of latents (B, d, h, w), not clamped: what a reconstruction loss needs. Differentiable."""
        images: Tensor = self.decoder(latents.to(self.dtype))
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of latents (B, d, h, w)."""
        return self.decode_features(latents).clamp(-1, 1)

    def pictures(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) float32 in [0, 1] of latents (B, d, h, w), some at a time where a batch is large."""
        return decode_in_parts(lambda part: (self.decode(part).float() + 1) / 2, latents, stride=self.config.stride)

    # latents <-> bits

    @torch.no_grad()
    def quantize_features(self, features: Tensor, grids: Sequence[Grid]) -> tuple[Tensor, ...]:
        """Bits (B, d, h, w) bool of every scale, for features (B, d, H/s, W/s) and the grids of all scales.

        Raises:
            InputError: the grids do not grow to that of the features.
        """
        _check_grids(grids, grid_of(features))
        residual, bits = features.float(), []
        for grid in grids:
            bits.append(F.adaptive_avg_pool2d(residual, grid) > 0)
            residual = residual - on_grid(codes_of(bits[-1]), grids[-1])
        return tuple(bits)

    @torch.no_grad()
    def encode(self, images: Tensor, grids: Sequence[Grid]) -> tuple[Tensor, ...]:
        """Bits (B, d, h, w) bool of every scale, for images (B, 3, H, W) in [-1, 1] and the grids of all scales."""
        return self.quantize_features(self.encode_features(images), grids)

    def empty_sum(self, batch: int, grid: Grid) -> Tensor:
        """The sum of the codes before the first scale: zeros (B, d, h, w) float32."""
        here = self.quantizer.lfq.get_buffer("mask").device  # the decoder may be elsewhere until it is needed
        return torch.zeros(batch, self.config.bits, *grid, device=here)

    def sums(self, bits: Sequence[Tensor], grid: Grid) -> list[Tensor]:
        """The sum (B, d, h, w) of the codes after each of the given scales, on the last grid; the last is the latents."""
        totals = [self.empty_sum(len(bits[0]), grid)]
        for scale in bits:
            totals.append(add_bits(totals[-1], scale))
        return totals[1:]

    def teacher_inputs(self, bits: Sequence[Tensor], patch: int = 1) -> Tensor:
        """What the transformer reads at scales 1.. given the bits of all (the last only for its grid): (B, L - n_0, d').

        Args:
            bits: (B, d, h, w) of every scale.
            patch: 2 where a token of the transformer holds 2 x 2 positions.
        """
        totals = self.sums(bits[:-1], grid_of(bits[-1]))
        read = [on_grid(total, grid_of(after)) for total, after in zip(totals, bits[1:], strict=True)]
        return torch.cat([to_tokens(each, patch) for each in read], dim=1)


def _check_grids(grids: Sequence[Grid], last: Grid) -> None:
    grows = all(a <= b and c <= d for (a, c), (b, d) in pairwise(grids))
    if not grids or tuple(grids[-1]) != last or not grows or min(grids[0]) < 1:
        listed = ", ".join(f"{h} x {w}" for h, w in grids) or "nothing"
        raise InputError(f"BSQVAE needs grids that grow to {last[0]} x {last[1]}, got {listed}")
