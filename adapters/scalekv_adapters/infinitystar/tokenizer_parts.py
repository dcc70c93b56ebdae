"""The layers of InfinityStar's video tokenizer. Tensors are (B, C, T, H, W), T the frames of one chunk.

In the decoder every norm is modulated by the latent itself, which is repeated to the frames and sides of its input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.infinitystar.causal_conv import Carry, CausalConv, PointConv

SIDE = 2
"""What sides are divided or multiplied by."""


class RMSNorm(nn.Module):
    """Scales the channels of every position to the length sqrt(C), times gamma."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return F.normalize(x, dim=1) * (self.gamma * len(self.gamma) ** 0.5)


class LatentNorm(nn.Module):
    """The same, times and plus linear maps of the latent that is decoded.

    Args:
        channels: of the input.
        latent: channels of the latent.
    """

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.norm_layer = RMSNorm(channels)
        self.conv_y = PointConv(latent, channels)
        self.conv_b = PointConv(latent, channels)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        assert carry.latent is not None, "a decoder carries its latent"
        return modulated(self.norm_layer(x, carry), self.conv_y(carry.latent), self.conv_b(carry.latent))


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (B, C, T, H, W) times ``scale`` plus ``shift``, (B, C, t, h, w) each, of which every number stands for a block of x.

    An odd number of frames is one frame for the first of the latent, and as many for each further one.

    >>> x, latent = torch.ones(1, 1, 5, 2, 2), torch.arange(2.0).view(1, 1, 2, 1, 1)
    >>> modulated(x, latent, latent)[0, 0, :, 0, 0].tolist()
    [0.0, 2.0, 2.0, 2.0, 2.0]
    """
    if x.shape[2] % 2 and x.shape[2] > 1:
        split = [(part[:, :, :1], part[:, :, 1:]) for part in (x, scale, shift)]
        return torch.cat([modulated(*parts) for parts in zip(*split, strict=True)], dim=2)
    t, h, w = scale.shape[2:]
    blocks = x.unflatten(4, (w, -1)).unflatten(3, (h, -1)).unflatten(2, (t, -1))
    scale, shift = (part[:, :, :, None, :, None, :, None] for part in (scale, shift))
    return torch.addcmul(shift, blocks, scale).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def latent_frames(frames: int, latents: int) -> list[int]:
    """For each frame of a chunk, which latent frame it shows.

    >>> latent_frames(5, 2), latent_frames(4, 2), latent_frames(1, 1)
    ([0, 1, 1, 1, 1], [0, 0, 1, 1], [0])
    """
    alone = frames % 2
    each = (frames - alone) // max(1, latents - alone)
    return [0] * alone + [alone + frame // each for frame in range(frames - alone)]


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, plus the input."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(channels), CausalConv(channels, channels)
        self.norm2, self.conv2 = norm(channels), CausalConv(channels, channels)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, carry)), carry)
        h = self.conv2(F.silu(self.norm2(h, carry)), carry)
        out: Tensor = h.add_(x)
        return out


class Resampling(nn.Module):
    """Norm, SiLU and the convolution that makes the channels of another resolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm, self.conv = RMSNorm(c_in), CausalConv(c_in, c_out)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        out: Tensor = self.conv(F.silu(self.norm(x, carry)), carry)
        return out


class Downsample(nn.Module):
    """Half the sides, pixels becoming channels, plus the means of the input's channels; half the frames, if ``frames`` is 2.

    Args:
        c_in, c_out: channels.
        frames: 1 or 2.
    """

    def __init__(self, c_in: int, c_out: int, frames: int) -> None:
        super().__init__()
        self.conv, self.frames = Resampling(c_in, c_out // SIDE**2), frames

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        h = pixels_to_channels(self.conv(x, carry))
        h = h + pixels_to_channels(x).unflatten(1, (-1, h.shape[1])).mean(dim=1)
        return halved_frames(h) if self.frames == 2 else h


class Upsample(nn.Module):
    """Twice the sides, and twice the frames if ``frames`` is 2: channels become pixels and frames; plus the repeated input.

    The first two frames of a clip become one, so that t frames become 2 t - 1.

    Args:
        c_in, c_out: channels.
        frames: 1 or 2.
    """

    def __init__(self, c_in: int, c_out: int, frames: int) -> None:
        super().__init__()
        self.conv, self.frames = Resampling(c_in, frames * SIDE**2 * c_out), frames

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        h: Tensor = self.conv(x, carry)
        h.unflatten(1, (-1, x.shape[1])).add_(x[:, None])
        h = channels_to_pixels(h, self.frames)
        if self.frames == 1 or not carry.first:
            return h
        return torch.cat([h[:, :, :2].mean(dim=2, keepdim=True), h[:, :, 2:]], dim=2)


def pixels_to_channels(x: Tensor) -> Tensor:
    """(B, 4 C, T, H/2, W/2) of (B, C, T, H, W), channels in the order row, column, channel."""
    blocks = x.unflatten(4, (-1, SIDE)).unflatten(3, (-1, SIDE))  # (B, C, T, h, dy, w, dx)
    return blocks.permute(0, 4, 6, 1, 2, 3, 5).flatten(1, 3)


def channels_to_pixels(x: Tensor, frames: int) -> Tensor:
    """(B, C, f T, 2 H, 2 W) of (B, 4 f C, T, H, W), channels in the order frame, row, column, channel."""
    blocks = x.unflatten(1, (frames, SIDE, SIDE, -1))  # (B, dt, dy, dx, C, T, H, W)
    return blocks.permute(0, 4, 5, 1, 6, 2, 7, 3).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def halved_frames(x: Tensor) -> Tensor:
    """The means of pairs of frames; of an odd number the first one stays alone.

    >>> halved_frames(torch.arange(5.0).view(1, 1, 5, 1, 1)).flatten().tolist()
    [0.0, 1.5, 3.5]
    """
    alone = x.shape[2] % 2
    pairs = x[:, :, alone:].unflatten(2, (-1, 2)).mean(dim=3)
    return torch.cat([x[:, :, :alone], pairs], dim=2) if alone else pairs
