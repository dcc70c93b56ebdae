"""What the two halves of infinity-tiny learn: the loss of one batch, and nothing about schedules or files.

BSQ-VAE: reconstruct, from a random number of scales and with some bits flipped, so that the first maps carry the layout
and a wrong bit spoils little. Transformer: name the bits of every map, reading maps in which bits were flipped, as its own
mistakes will be; the next labels put them right (bitwise self-correction, Infinity, arXiv 2412.04431, section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from recipes.infinity_tiny.drawings import drawings
from scalekv_adapters.infinity.bits import Grid, codes_of, grid_of, on_grid, to_tokens
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.rotation import Rotation
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.tiny.network import PIXELS, TinyInfinity
from scalekv_adapters.infinity.vae import BSQVAE

__all__ = ["ASPECTS", "Labels", "Lesson", "VAELoss", "label", "lesson_loss", "map_losses", "vae_loss"]


ASPECTS: Mapping[str, float] = {"1:1": 0.7, "3:4": 0.15, "4:3": 0.15}
"""{aspect ratio, width:height: how often it is shown}."""


@frozen(kw_only=True, eq=False)
class Labels:
    """What the maps of a batch should be, where some bits were flipped on the way.

    Attributes:
        bits: (B, d, h, w) bool of every scale: what is to be named, given all flips before.
        sums: (B, d, H, W) after every scale, flips included.
    """

    bits: list[Tensor]
    sums: list[Tensor]

    def read(self) -> Tensor:
        """What the transformer reads at the scales 1..: (B, L - 1, d)."""
        after = [grid_of(bits) for bits in self.bits[1:]]
        return torch.cat([to_tokens(on_grid(s, g)) for s, g in zip(self.sums, after, strict=False)], dim=1)

    def tokens(self) -> Tensor:
        """What it should name: (B, L, d) bool."""
        return torch.cat([to_tokens(bits) for bits in self.bits], dim=1)


@torch.no_grad()
def label(features: Tensor, grids: Sequence[Grid], rates: Tensor, source: torch.Generator) -> Labels:
    """The labels of features (B, d, H, W) at the scales of these grids, bits flipped at rates (B, 1, 1, 1) each.

    >>> source = torch.Generator().manual_seed(0)
    >>> labels = label(torch.randn(2, 4, 2, 2), ((1, 1), (2, 2)), torch.zeros(2, 1, 1, 1), source)
    >>> labels.read().shape, labels.tokens().shape
    (torch.Size([2, 4, 4]), torch.Size([2, 5, 4]))
    """
    bits: list[Tensor] = []
    sums: list[Tensor] = []
    total = torch.zeros_like(features)
    for grid in grids:
        bits.append(F.adaptive_avg_pool2d(features - total, grid) > 0)
        flipped = bits[-1] ^ (torch.rand(bits[-1].shape, generator=source) < rates)
        total = total + on_grid(codes_of(flipped), grid_of(features))
        sums.append(total)
    return Labels(bits=bits, sums=sums)


@frozen(kw_only=True)
class VAELoss:
    """Weights and rates of the VAE's loss."""

    commitment: float = 0.25
    flips: float = 0.10
    """The largest share of bits that are flipped, of a picture."""
    clean: float = 0.5
    """Share of pictures of which none is."""
    full: float = 0.7
    """Share of pictures that are decoded from all scales; the others from a random number of them."""
    first: int = 3
    """The fewest scales that are ever decoded, minus one."""
    ground: float = 0.25
    """Weight of a pixel of the ground, where one of a thing counts 1: most pixels are ground."""


def vae_loss(vae: BSQVAE, images: Tensor, grids: Sequence[Grid], how: VAELoss, source: torch.Generator) -> Tensor:
    """Reconstruction (L1 and MSE, straight through the quantiser) and commitment, a scalar.

    Args:
        vae: in training mode.
        images: (B, 3, H, W) in [-1, 1].
        grids: of all scales.
        how: weights and rates.
        source: all randomness.
    """
    features = vae.encode_features(images)
    count = len(images)
    noisy = (torch.rand(count, 1, 1, 1, generator=source) > how.clean).float()
    rates = noisy * how.flips * torch.rand(count, 1, 1, 1, generator=source)
    sums = torch.stack(label(features, grids, rates, source).sums)
    commitment = (sums[how.first :] - features).square().mean()
    depth = torch.randint(how.first, len(grids), (count,), generator=source)
    depth = torch.where(torch.rand(count, generator=source) < how.full, len(grids) - 1, depth)
    chosen = sums[depth, torch.arange(count)]
    drawn = vae.decode_features(features + (chosen - features).detach())
    ground = (images.amax(1, keepdim=True) < -0.7).float()
    weight = 1 - (1 - how.ground) * ground
    error = drawn - images
    return ((error.abs() + error.square()) * weight).mean() + how.commitment * commitment


class MapByMap:
    """Teacher forcing without a mask: each map attends to its own prefix, which is what the mask would leave of it."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.ends = list(accumulate(tokens))

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        outs, start = [], 0
        for end in self.ends:
            seen = k[:, :, :end], v[:, :, :end]
            outs.append(F.scaled_dot_product_attention(q[:, :, start:end], *seen, scale=softmax_scale))
            start = end
        return torch.cat(outs, 2)

    def close(self) -> None:
        """Has nothing to forget."""


def map_losses(model: Infinity, text: PackedText, labels: Labels, canvas: Canvas) -> Tensor:
    """Cross entropy (scales,), in nats a bit, of each of the maps that are labelled: all of the canvas, or the first ones.

    No map sees a later one, so a prefix is learnt exactly, and cheaply: the first five maps of seven hold what lies where,
    and a quarter of the tokens.
    """
    tokens = canvas.schedule.tokens[: len(labels.bits)]
    condition = model.condition(text)
    levels = torch.arange(len(tokens)).repeat_interleave(torch.tensor(tokens))
    h = torch.cat((model.embed_start(condition), model.embed(labels.read(), levels[1:])), dim=1)
    rotation = Rotation.of(canvas, model.config.head_dim, h.device).part(0, len(levels))
    logits = model.logits(model.run_blocks(h, condition, rotation, MapByMap(tokens)), condition.start)
    wanted = labels.tokens().long()
    losses = F.cross_entropy(logits.view(-1, 2), wanted.flatten(), reduction="none").view(wanted.shape)
    return torch.stack([part.mean() for part in losses.split(tokens, dim=1)])


@frozen(kw_only=True)
class Lesson:
    """What one step of the transformer is made of.

    Attributes:
        early, whole: pictures of which the first maps are learnt, and of which all are. What lies where is decided in the
            first maps, and five of seven take a quarter of the tokens.
        first: how many maps those are.
        weights: of every map's loss. By map and not by token, or the last two would be all that counts.
        flips: the largest share of bits that are flipped, of a picture; the mean is a third of it.
        drop: share of captions that say nothing, so that guidance can be learnt.
        aspects: {aspect ratio: how often}.
    """

    early: int = 24
    whole: int = 5
    first: int = 5
    weights: tuple[float, ...] = (1, 2, 3, 3, 2, 2, 2)
    flips: float = 0.3
    drop: float = 0.1
    aspects: Mapping[str, float] = ASPECTS


def lesson_loss(model: TinyInfinity, vae: BSQVAE, how: Lesson, source: torch.Generator) -> Tensor:
    """The loss of new pictures, a scalar: nats per bit, averaged over maps by their weights.

    Args:
        model: in training mode.
        vae: frozen.
        how: what the step is made of.
        source: all randomness.
    """
    early = _losses(model, vae, how.early, how.first, how, source)
    whole = _losses(model, vae, how.whole, len(how.weights), how, source)
    shared = (how.early * early + how.whole * whole[: how.first]) / (how.early + how.whole)
    weights = torch.tensor(how.weights, dtype=shared.dtype)
    return torch.cat((shared, whole[how.first :])) @ weights / weights.sum()


def _losses(model: TinyInfinity, vae: BSQVAE, count: int, scales: int, how: Lesson, source: torch.Generator) -> Tensor:
    canvas = random_canvas(how.aspects, source)
    captions, pictures = drawings(count, canvas.image_size(vae.config.stride), source)
    rates = how.flips * torch.rand(count, 1, 1, 1, generator=source).square()
    with torch.no_grad():
        features = vae.encode_features(to_model(pictures))
    labels = label(features, canvas.grids()[:scales], rates, source)
    text = model.transformer.with_dropped(model.text([str(one) for one in captions]), how.drop, source)
    return map_losses(model.transformer, text, labels, canvas)


def random_canvas(aspects: Mapping[str, float], source: torch.Generator) -> Canvas:
    """A canvas of one of these aspect ratios, in the size of this model."""
    pick = int(torch.multinomial(torch.tensor(list(aspects.values())), 1, generator=source))
    return Canvas(list(aspects)[pick], PIXELS)


def to_model(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] as the VAE reads them, in [-1, 1]."""
    return 2 * pictures - 1
