"""VAR's VQVAE, which other families use, too: images to token maps of growing size and back.

The maps are residual: scale k holds what the scales before it could not express. So a running sum, called f_hat, is at
the heart of every use of this class (encoding, teacher forcing, generation), and its steps are public.
Source: Tian et al., Visual Autoregressive Modeling, 2024 (arXiv 2404.02905), algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.convnet import Decoder, Encoder
from scalekv_adapters.decoding import decode_in_parts
from scalekv_adapters.sizes import as_sizes, in_groups, positive
from scalekv_adapters.vqvae_parts import PARTS, conv
from scalekv_core.errors import InputError
from scalekv_core.models.weights import State, numbered, shape_of

SIDES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SIDES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
SHARED_CONVS = 4


def check_sides(instance: object, attribute: object, sides: tuple[int, ...]) -> None:
    """attrs validator: the sides of the square maps, rising, with at least two of them."""
    if len(sides) < 2 or sides[0] < 1 or any(a >= b for a, b in pairwise(sides)):
        raise InputError(f"{type(instance).__name__}: patch_sides must be two or more rising sides, got {sides}")


@attrs.frozen(kw_only=True)
class VQVAEConfig:
    """Sizes of a VQVAE; the defaults are those of the published one (vae_ch160v4096z32)."""

    codes: int = attrs.field(default=4096, validator=positive)
    code_width: int = attrs.field(default=32, validator=positive)
    base_channels: int = attrs.field(default=160, validator=in_groups)
    multipliers: tuple[int, ...] = attrs.field(default=(1, 1, 2, 2, 4), converter=as_sizes)
    blocks: int = attrs.field(default=2, validator=positive)
    patch_sides: tuple[int, ...] = attrs.field(default=SIDES_256, converter=as_sizes, validator=check_sides)

    @property
    def image_side(self) -> int:
        """Side of the images in pixels: every level but one halves it."""
        return int(self.patch_sides[-1] * 2 ** (len(self.multipliers) - 1))


def residual_conv_index(scale: int, scales: int) -> int:
    """Which of the four shared convolutions a 0-based scale uses: the nearest tick to scale / (scales - 1).

    The ticks are 1/12, 13/36, 23/36, 11/12. A tie goes to the later tick, in integers, so that no rounding decides.

    >>> [residual_conv_index(s, 10) for s in range(10)]
    [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    """
    distance = [abs(36 * scale - (3 + 10 * tick) * (scales - 1)) for tick in range(SHARED_CONVS)]
    return min(range(SHARED_CONVS), key=lambda tick: (distance[tick], -tick))


def nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index (N,) int64 of the code (V, C) nearest to each vector (N, C) in Euclidean distance; at a tie the first.

    >>> nearest_code(torch.tensor([[0.9], [0.1]]), torch.tensor([[0.0], [1.0]]))
    tensor([1, 0])
    """
    distance = codebook.square().sum(1) - 2 * vectors @ codebook.T  # |z|^2 is the same for every code
    return torch.argmin(distance, dim=1)


class SharedConvs(nn.Module):
    """Holds the four shared residual convolutions under their published names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(conv(width, width) for _ in range(SHARED_CONVS))


class Codebook(nn.Module):
    """Holds the codes (V, Cvae), the residual convolutions, and a usage statistic that only training ever wrote."""

    ema_vocab_hit_SV: Tensor

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codes, config.code_width)
        self.quant_resi = SharedConvs(config.code_width)
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(len(config.patch_sides), config.codes))


def vqvae_config(state: State, patch_sides: tuple[int, ...]) -> VQVAEConfig:
    """The sizes of a VQVAE, read off its weights, all but the sides of its maps.

    Raises:
        CheckpointError: a weight is missing or has another number of dimensions.
    """
    codes, code_width = shape_of(state, "quantize.embedding.weight", 2)
    base, *_ = shape_of(state, "encoder.conv_in.weight", 4)
    levels = range(numbered(state, "encoder.down."))
    widths = [shape_of(state, f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in levels]
    return VQVAEConfig(
        codes=codes,
        code_width=code_width,
        base_channels=base,
        multipliers=tuple(width // base for width in widths),
        blocks=numbered(state, "encoder.down.0.block."),
        patch_sides=patch_sides,
    )


class VQVAE(nn.Module):
    """Multi-scale VQVAE. Images are (B, 3, H, W) in [-1, 1]; f and f_hat are (B, Cvae, P, P), P the last patch side."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (config.base_channels, config.multipliers, config.blocks, config.code_width)
        self.encoder = Encoder(*sizes, PARTS)
        self.decoder = Decoder(*sizes, PARTS)
        self.quantize = Codebook(config)
        self.quant_conv = conv(config.code_width, config.code_width)
        self.post_quant_conv = conv(config.code_width, config.code_width)

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of the square map of every scale."""
        return self.config.patch_sides

    # images <-> features

    def encode_features(self, images: Tensor) -> Tensor:
        """Features f (B, Cvae, P, P) of images (B, 3, H, W) in [-1, 1]. Differentiable."""
        side = self.config.image_side
        if images.dim() != 4 or images.shape[1:] != (3, side, side):
            raise InputError(f"VQVAE.encode needs images (B, 3, {side}, {side}), got {tuple(images.shape)}")
        features: Tensor = self.quant_conv(self.encoder(images))
        return features

    def decode_features(self, f_hat: Tensor) -> Tensor:
        """Images (B, 3, H, W) of f_hat, not clamped: what a reconstruction loss needs. Differentiable."""
        images: Tensor = self.decoder(self.post_quant_conv(f_hat))
        return images

    def decode(self, f_hat: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of f_hat."""
        return self.decode_features(f_hat).clamp(-1, 1)

    def pictures(self, f_hat: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of f_hat, some at a time where a batch is large."""
        stride = self.config.image_side // self.sides[-1]
        return decode_in_parts(lambda part: (self.decode(part) + 1) / 2, f_hat, stride=stride)

    # one step of the residual sum

    def residual_conv(self, h: Tensor, scale: int) -> Tensor:
        """Half of h (B, Cvae, P, P) plus half of its convolution, the one of this scale. Differentiable."""
        conv = self.quantize.quant_resi.qresi_ls[residual_conv_index(scale, len(self.sides))]
        mixed: Tensor = 0.5 * h + 0.5 * conv(h)
        return mixed

    def nearest(self, residual: Tensor, scale: int) -> Tensor:
        """Tokens (B, n_k) int64 nearest to the residual (B, Cvae, P, P), reduced by area to the map of this scale."""
        reduced = F.adaptive_avg_pool2d(residual.detach(), self.sides[scale])
        vectors = reduced.permute(0, 2, 3, 1).flatten(0, 2)  # (B n_k, Cvae)
        return nearest_code(vectors, self.quantize.embedding.weight.detach()).view(len(residual), -1)

    def codes_to_map(self, tokens: Tensor, scale: int) -> Tensor:
        """What tokens (B, n_k) of a scale add to f_hat: (B, Cvae, P, P). Differentiable in codes and convolution."""
        side, last = self.sides[scale], self.sides[-1]
        h: Tensor = self.quantize.embedding(tokens).mT.unflatten(2, (side, side))  # (B, Cvae, h_k, w_k)
        if scale < len(self.sides) - 1:
            h = F.interpolate(h, size=(last, last), mode="bicubic")
        return self.residual_conv(h, scale)

    def empty_map(self, batch: int) -> Tensor:
        """The f_hat before the first scale: zeros (B, Cvae, P, P)."""
        codes = self.quantize.embedding.weight
        return codes.new_zeros(batch, self.config.code_width, self.sides[-1], self.sides[-1])

    def add_scale(self, f_hat: Tensor, tokens: Tensor, scale: int) -> Tensor:
        """The f_hat after this scale, a new tensor."""
        return f_hat + self.codes_to_map(tokens, scale)

    def next_input(self, f_hat: Tensor, scale: int) -> Tensor:
        """What the transformer reads at scale + 1: f_hat reduced by area, (B, n_{k+1}, Cvae), row-major."""
        return F.adaptive_avg_pool2d(f_hat, self.sides[scale + 1]).flatten(2).mT

    # whole sequences

    @torch.no_grad()
    def quantize_features(self, f: Tensor) -> tuple[Tensor, ...]:
        """Tokens (B, n_k) int64 of every scale, for features f (B, Cvae, P, P)."""
        residual, tokens = f, []
        for scale in range(len(self.sides)):
            tokens.append(self.nearest(residual, scale))
            residual = residual - self.codes_to_map(tokens[-1], scale)
        return tuple(tokens)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Tokens (B, n_k) int64 of every scale, for images (B, 3, H, W) in [-1, 1]."""
        return self.quantize_features(self.encode_features(images))

    def f_hats(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """The f_hat after each of the given scales; the last one of a full list is what `decode` needs."""
        if not 0 < len(tokens) <= len(self.sides):
            raise InputError(f"VQVAE needs token maps of 1 to {len(self.sides)} scales, got {len(tokens)}")
        sums = [self.empty_map(len(tokens[0]))]
        for scale, map_tokens in enumerate(tokens):
            sums.append(self.add_scale(sums[-1], map_tokens, scale))
        return sums[1:]

    def teacher_inputs(self, tokens: Sequence[Tensor]) -> Tensor:
        """Transformer input for scales 1.. given the tokens of all scales (the last is not read): (B, L - 1, Cvae)."""
        sums = self.f_hats(tokens[: len(self.sides) - 1])
        return torch.cat([self.next_input(f_hat, scale) for scale, f_hat in enumerate(sums)], dim=1)
