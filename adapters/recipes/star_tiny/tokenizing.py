"""What the video tokenizer of star-tiny learns: to reconstruct, from a random number of passes and with some bits flipped, so that
the first maps carry the layout and a wrong bit spoils little."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import Tensor

from recipes.star_tiny.labels import Labels, label
from recipes.star_tiny.movies import wandering
from scalekv_adapters.infinitystar.pyramids import Pyramids
from scalekv_adapters.infinitystar.tiny.network import PYRAMIDS, SIDE
from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer

__all__ = ["TokenizerLoss", "practice", "reconstructed", "to_model", "tokenizer_loss"]

SIDES = (64, SIDE)
FRAMES = (9, 17)


@frozen(kw_only=True)
class TokenizerLoss:
    """Weights and rates of the tokenizer's loss."""

    commitment: float = 1.0
    flips: float = 0.10
    """The largest share of bits that are flipped, of a clip."""
    clean: float = 0.5
    """Share of clips of which none is."""
    full: float = 0.7
    """Share of clips that are decoded from all passes; the others from a random number of them."""
    first: int = 4
    """The fewest passes of a pyramid that are ever decoded."""
    ground: float = 0.05
    """Weight of a pixel of the ground, where one of a shape or near it counts 1: most pixels are ground, and what is hard is the
    outline."""
    near: int = 4
    """Pixels around a shape that count as much as the shape."""


def practice(pixels: int, source: torch.Generator) -> Tensor:
    """Clips (B, 3, F, H, W) in [-1, 1] of a few frames, of one size or the other, about so many pixels in all."""
    side, frames = (sizes[int(torch.randint(2, (), generator=source))] for sizes in (SIDES, FRAMES))
    return to_model(wandering(max(1, round(pixels / (frames * side**2))), frames, side, source))


def tokenizer_loss(tokenizer: VideoTokenizer, clips: Tensor, how: TokenizerLoss, source: torch.Generator) -> Tensor:
    """Reconstruction (L1 and MSE, straight through the quantiser) and commitment, a scalar.

    Args:
        tokenizer: in training mode.
        clips: (B, 3, F, H, W) in [-1, 1].
        how: weights and rates.
        source: all randomness.
    """
    features = tokenizer.encode_features(clips)
    count, latents = len(clips), features.shape[2]
    pyramids = _pyramids(latents, features.shape[3])
    noisy = (torch.rand(count, 1, 1, 1, 1, generator=source) > how.clean).float()
    rates = noisy * how.flips * torch.rand(count, 1, 1, 1, 1, generator=source)
    labels = [_labels(features, pyramids, pyramid, rates, source) for pyramid in range(2)]
    sums = torch.stack([torch.cat(parts, dim=2) for parts in zip(*(each.sums for each in labels), strict=True)])
    commitment = (sums[how.first :] - features).square().mean()
    last = len(sums) - 1
    depth = torch.randint(how.first, last + 1, (count,), generator=source)
    depth = torch.where(torch.rand(count, generator=source) < how.full, last, depth)
    chosen = sums[depth, torch.arange(count)]
    drawn = tokenizer.decode_features(features + (chosen - features).detach(), at_once=latents)
    error = drawn - clips
    weight = _weights(clips, how)
    return ((error.abs() + error.square()) * weight).mean() / weight.mean() + how.commitment * commitment


def _weights(clips: Tensor, how: TokenizerLoss) -> Tensor:
    """(B, 1, F, H, W) of the pixels of clips (B, 3, F, H, W) in [-1, 1]."""
    thing = (clips.amax(1, keepdim=True) >= -0.7).float()
    around = F.max_pool3d(thing, (1, 2 * how.near + 1, 2 * how.near + 1), stride=1, padding=(0, how.near, how.near))
    return how.ground + (1 - how.ground) * around


@torch.no_grad()
def reconstructed(tokenizer: VideoTokenizer, clips: Tensor) -> Tensor:
    """Clips (B, 3, F, H, W) in [0, 1] of the bits of all passes, as they would be generated."""
    features, none = tokenizer.encode_features(to_model(clips)), torch.zeros(len(clips), 1, 1, 1, 1)
    source = torch.Generator().manual_seed(0)
    sums = [_labels(features, PYRAMIDS, pyramid, none, source).sums[-1] for pyramid in range(len(PYRAMIDS.frames))]
    return tokenizer.pictures(torch.cat(sums, dim=2))


def to_model(clips: Tensor) -> Tensor:
    """Clips in [0, 1] as the tokenizer reads them, in [-1, 1]."""
    return 2 * clips - 1


def _pyramids(latents: int, side: int) -> Pyramids:
    """Those of a shorter and perhaps smaller clip."""
    grids = (*PYRAMIDS.grids[:-1], (side, side))
    return evolve(PYRAMIDS, grids=grids, frames=(1, latents - 1), repeats=PYRAMIDS.repeats[:2])


def _labels(features: Tensor, pyramids: Pyramids, pyramid: int, rates: Tensor, source: torch.Generator) -> Labels:
    passes = [each for each in pyramids.passes if each.pyramid == pyramid]
    first = passes[0].first_frame
    return label(features.detach()[:, :, first : first + passes[0].grid[0]], passes, rates, source)
