"""InfinityStar's video tokenizer: clips to latents and back, chunk by chunk.

Nothing in it looks ahead in time. The first latent frame is the first frame, every further one four frames; so a clip has 1 + 4 k
frames, and one of any length is decoded in the memory of one chunk. The quantiser of the latents is in `tokenizer_bits`.
Source: Liu et al., InfinityStar, 2025 (arXiv 2511.04675), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.infinitystar.causal_conv import Carry
from scalekv_adapters.infinitystar.tokenizer_bits import Map, quantize
from scalekv_adapters.infinitystar.tokenizer_config import FOLD, TIME, VideoTokenizerConfig
from scalekv_adapters.infinitystar.tokenizer_network import Decoder, Encoder
from scalekv_core.errors import InputError


class VideoTokenizer(nn.Module):
    """Clips are (B, 3, F, H, W) in [-1, 1] with F = 1 + 4 k frames; an image is a clip of one frame. Features are
    (B, 64, k + 1, H/16, W/16) float32: what maps of bits add up to.

    It runs in float32, as published.
    """

    def __init__(self, config: VideoTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.code_width
        self.encoder = Encoder(config.widths, config.blocks, 2 * config.latent_channels)
        self.decoder = Decoder(config.widths, config.blocks, config.latent_channels)
        self.scale_learnable_parameters = nn.Parameter(torch.ones(4))
        self.proj_down, self.proj_up = nn.Linear(width, width), nn.Linear(width, width)
        self.proj_down_two = nn.Linear(width, width)  # published, and never used, as is the next
        self.proj_up_two = nn.Linear(width, width)

    # clips -> features

    def encode_features(self, clips: Tensor) -> Tensor:
        """Features (B, 64, k + 1, H/16, W/16) of clips (B, 3, 1 + 4 k, H, W) in [-1, 1]. Differentiable.

        The published code adds noise of the learnt variance to the mean; here the mean is returned.

        Raises:
            InputError: another number of frames, or sides that are no multiples of 16.
        """
        mean = folded(self.moments(clips))[:, : self.config.code_width]
        return _channels(self.proj_down, mean) * self.scale_learnable_parameters[0]

    def moments(self, clips: Tensor) -> Tensor:
        """(B, 32, k + 1, H/8, W/8) what the encoder says of clips: mean and log variance, not folded yet."""
        _check_clips(clips, self.config.stride)
        sizes = [1] + [TIME] * ((clips.shape[2] - 1) // TIME)
        return torch.cat(list(_in_chunks(self.encoder, clips.to(self.dtype), sizes)), dim=2)

    @torch.no_grad()
    def encode_images(self, images: Tensor, maps: Sequence[Map], widths: Sequence[int]) -> tuple[Tensor, ...]:
        """The bits (B, d, 1, h, w) of every step of the first pyramid, so that a clip begins with these images.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            maps, widths: of every step, as for :func:`~scalekv_adapters.infinitystar.tokenizer_bits.quantize`.

        Raises:
            InputError: images of another size than the last map's.
        """
        height, width = (side * self.config.stride for side in maps[-1][1:])
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, height, width):
            raise InputError(
                f"a clip of {height} x {width} pixels begins with images (B, 3, {height}, {width}); got {tuple(images.shape)}: "
                "crop and resize them first, or choose another aspect ratio"
            )
        bits, _ = quantize(self.encode_features(images[:, :, None]).float(), maps, widths)
        return bits

    # features -> clips

    def decode_features(self, features: Tensor, *, at_once: int = 1) -> Tensor:
        """Clips (B, 3, 1 + 4 (t - 1), 16 h, 16 w) of features (B, 64, t, h, w), not clamped. Differentiable.

        Args:
            features: the sum of the codes of all maps.
            at_once: latent frames of a chunk; the result does not depend on it, but the memory does.
        """
        return torch.cat(list(self._chunks(features, at_once)), dim=2)

    @torch.no_grad()
    def pictures(self, features: Tensor) -> Tensor:
        """Clips (B, 3, F, H, W) float32 in [0, 1] of features (B, 64, t, h, w), in the memory that `most_decoding` bounds.

        As published, a clip shows its second frame in place of its first.
        """
        clips = features.new_empty(self._clip_shape(features), dtype=torch.float32)
        for clip, one in zip(clips, features.split(1), strict=True):
            end = 0
            for chunk in self._chunks(one, 1):
                start, end = end, end + chunk.shape[2]
                clip[:, start:end] = ((chunk[0].float() + 1) / 2).clamp(0, 1)
            if end > 1:
                clip[:, 0] = clip[:, 1]
            if features.is_meta:
                break  # no other clip takes more
        return clips

    def _clip_shape(self, features: Tensor) -> tuple[int, ...]:
        self._check_features(features)
        rows, _, latents, height, width = features.shape
        stride = self.config.stride
        return rows, 3, self.config.frames_of(latents), height * stride, width * stride

    def _chunks(self, features: Tensor, at_once: int) -> Iterator[Tensor]:
        self._check_features(features)
        latents = features.to(self.dtype) / self.scale_learnable_parameters[0]
        latents = unfolded(_channels(self.proj_up, latents))
        sizes = [min(at_once, latents.shape[2] - start) for start in range(0, latents.shape[2], at_once)]
        return _in_chunks(self.decoder, latents, sizes)

    def empty_sum(self, batch: int, frames: int, height: int, width: int) -> Tensor:
        """The sum of the codes before the first map: zeros (B, 64, frames, height, width) float32."""
        here = self.scale_learnable_parameters.device
        return torch.zeros(batch, self.config.code_width, frames, height, width, device=here)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.scale_learnable_parameters.dtype

    def _check_features(self, features: Tensor) -> None:
        if features.dim() != 5 or features.shape[1] != self.config.code_width or not features.numel():
            raise InputError(
                f"VideoTokenizer.decode needs features (B, {self.config.code_width}, t, h, w), got {tuple(features.shape)}"
            )


def folded(latents: Tensor) -> Tensor:
    """(B, 4 C, t, h/2, w/2) of (B, C, t, h, w): 2 x 2 positions side by side, channel by channel."""
    return F.pixel_unshuffle(latents.transpose(1, 2), FOLD).transpose(1, 2)


def unfolded(latents: Tensor) -> Tensor:
    """The inverse of `folded`."""
    return F.pixel_shuffle(latents.transpose(1, 2), FOLD).transpose(1, 2)


def _in_chunks(network: Encoder | Decoder, x: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    """What a network makes of (B, C, T, H, W), so many frames at a time."""
    carry, before = Carry(), None
    for number, chunk in enumerate(x.split(sizes, dim=2)):
        carry.first, carry.more = number == 0, number < len(sizes) - 1
        if x.is_meta and 2 < number < len(sizes) - 1 and before is not None:
            yield before.new_empty(before.shape)  # takes no more than the one before it
            continue
        before = network(chunk, carry)
        yield before


def _channels(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer over the channels of (B, C, t, h, w)."""
    out: Tensor = linear(x.movedim(1, -1)).movedim(-1, 1)
    return out


def _check_clips(clips: Tensor, stride: int) -> None:
    fits = clips.dim() == 5 and clips.shape[1] == 3 and clips.shape[2] % TIME == 1
    if not fits or min(clips.shape) < 1 or clips.shape[3] % stride or clips.shape[4] % stride:
        raise InputError(
            f"VideoTokenizer.encode needs clips (B, 3, F, H, W) of F = 1, 5, 9, ... frames and sides that are multiples of "
            f"{stride}; got {tuple(clips.shape)}"
        )
