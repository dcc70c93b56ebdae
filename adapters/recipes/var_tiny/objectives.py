"""What the judge and the two halves of the generator learn: the loss of one batch, and nothing about schedules or files.

VQVAE: reconstruct from a random number of scales, so that the first ones carry the digit and the last ones only its finish.
VAR: name the tokens of every map, reading maps in which some tokens were replaced, as its own mistakes will be.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_adapters.var.generation import VAR
from scalekv_adapters.var.tiny.judge import DigitReader
from scalekv_adapters.vqvae import VQVAE

__all__ = [
    "Noise",
    "VQVAELoss",
    "judge_loss",
    "noisy_tokens",
    "refresh_codes",
    "running_sums",
    "var_loss",
    "vqvae_loss",
]


@attrs.frozen(kw_only=True)
class VQVAELoss:
    """Weights of the parts of the VQVAE's loss."""

    commitment: float = 0.25
    full: float = 0.6
    """Share of digits that are decoded from all scales; the others from a random number of them."""
    first: int = 3
    """The fewest scales that are ever decoded, minus one."""
    hit_decay: float = 0.99
    """How fast the usage statistic of the codes forgets."""


def judge_loss(reader: DigitReader, images: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross entropy with a little label smoothing, a scalar.

    >>> judge_loss(DigitReader(width=8), torch.zeros(2, 1, 32, 32), torch.tensor([1, 2])).shape
    torch.Size([])
    """
    return F.cross_entropy(reader(images), labels, label_smoothing=0.05)


def running_sums(vqvae: VQVAE, f: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Returns f_hat after every scale, with gradients for codes and convolutions, and the tokens of every scale.

    Args:
        vqvae: the quantiser.
        f: (B, Cvae, P, P) features; no gradient flows back to them.
    """
    f_hat, sums, tokens = vqvae.empty_map(len(f)), [], []
    for scale in range(len(vqvae.sides)):
        tokens.append(vqvae.nearest(f.detach() - f_hat.detach(), scale))
        f_hat = vqvae.add_scale(f_hat, tokens[-1], scale)
        sums.append(f_hat)
    return sums, tokens


@torch.no_grad()
def _count_hits(vqvae: VQVAE, tokens: Sequence[Tensor], decay: float) -> None:
    hits = vqvae.quantize.ema_vocab_hit_SV
    for scale, map_tokens in enumerate(tokens):
        counts = torch.bincount(map_tokens.flatten(), minlength=hits.shape[1]).to(hits)
        hits[scale].lerp_(counts, 1 - decay)


def _random_depth(batch: int, scales: int, how: VQVAELoss, source: torch.Generator) -> Tensor:
    depth = torch.randint(how.first, scales, (batch,), generator=source)
    whole = torch.rand(batch, generator=source) < how.full
    return torch.where(whole, scales - 1, depth)


def vqvae_loss(vqvae: VQVAE, images: Tensor, how: VQVAELoss, source: torch.Generator) -> Tensor:
    """Returns reconstruction (L1 and MSE) plus codebook and commitment loss, a scalar.

    The reconstruction's gradient reaches the codes directly and the encoder straight through the quantiser.

    Args:
        vqvae: in training mode; its usage statistic is updated.
        images: (B, 3, H, W) in [-1, 1].
        how: the weights.
        source: randomness of the number of scales.
    """
    f = vqvae.encode_features(images)
    sums, tokens = running_sums(vqvae, f)
    _count_hits(vqvae, tokens, how.hit_decay)
    codebook = sum((F.mse_loss(s, f.detach()) for s in sums), torch.zeros(()))
    commitment = sum((F.mse_loss(s.detach(), f) for s in sums), torch.zeros(()))
    depth = _random_depth(len(images), len(sums), how, source)
    chosen = torch.stack(sums)[depth, torch.arange(len(images))]
    drawn = vqvae.decode_features(chosen + (f - f.detach()))
    rebuilt = F.l1_loss(drawn, images) + F.mse_loss(drawn, images)
    return rebuilt + (codebook + how.commitment * commitment) / len(sums)


@torch.no_grad()
def refresh_codes(vqvae: VQVAE, images: Tensor, source: torch.Generator, *, at_least: float = 0.5) -> int:
    """Returns how many codes were used less than `at_least` times per batch; they now are residuals of these images.

    Args:
        vqvae: its codes change in place.
        images: (B, 3, H, W) in [-1, 1].
        source: randomness of the choice.
        at_least: the usage, in tokens per batch summed over scales, below which a code counts as dead.
    """
    hits = vqvae.quantize.ema_vocab_hit_SV
    dead = (hits.sum(0) < at_least).nonzero()[:, 0]
    f = vqvae.encode_features(images)
    sums, _ = running_sums(vqvae, f)
    befores = [vqvae.empty_map(len(f)), *sums[:-1]]
    pools = [F.adaptive_avg_pool2d(f - before, side) for before, side in zip(befores, vqvae.sides, strict=True)]
    vectors = torch.cat([pool.permute(0, 2, 3, 1).flatten(0, 2) for pool in pools])
    chosen = vectors[torch.randint(len(vectors), (len(dead),), generator=source)]
    vqvae.quantize.embedding.weight[dead] = chosen
    hits[:, dead] = 2 * at_least / len(hits)
    return len(dead)


@attrs.frozen(kw_only=True)
class Noise:
    """Which of the tokens that the transformer reads are not those it should have named."""

    near: float = 0.3
    """Largest share, per digit, replaced by one of the codes nearest to what was wanted: the usual mistake."""
    neighbours: int = 6
    anywhere: float = 0.03
    """Largest share, per digit, replaced by any code: the rare mistake."""


def _replace(vqvae: VQVAE, right: Tensor, how: Noise, rates: Tensor, source: torch.Generator) -> Tensor:
    codes = vqvae.quantize.embedding.weight
    distance = torch.cdist(codes, codes)
    near = distance.topk(how.neighbours + 1, largest=False).indices[right]  # (B, n, 1 + neighbours), itself first
    pick = torch.randint(1, how.neighbours + 1, (*right.shape, 1), generator=source)
    anything = torch.randint(len(codes), right.shape, generator=source)
    draw = torch.rand(right.shape, generator=source)
    near_rate, any_rate = how.near * rates, how.anywhere * rates  # (B, 1) each
    tokens = torch.where(draw < near_rate, near.gather(2, pick)[..., 0], right)
    return torch.where(draw > 1 - any_rate, anything, tokens)


@torch.no_grad()
def noisy_tokens(
    vqvae: VQVAE, images: Tensor, scales: int, how: Noise, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Returns what the transformer reads (B, L - 1, Cvae) and what it should answer (B, L), for the first `scales` maps.

    After a replaced token the next maps are quantised from what is then missing, so the answers put the mistake right
    (bitwise self-correction of Infinity, arXiv 2412.04431, for codes instead of bits).

    Args:
        vqvae: frozen.
        images: (B, 3, H, W) in [-1, 1].
        scales: how many maps.
        how: the shares.
        source: randomness.
    """
    f = vqvae.encode_features(images)
    rates = torch.rand(len(f), 1, generator=source)
    f_hat, read, answers = vqvae.empty_map(len(f)), [], []
    for scale in range(scales):
        answers.append(vqvae.nearest(f - f_hat, scale))
        f_hat = vqvae.add_scale(f_hat, _replace(vqvae, answers[-1], how, rates, source), scale)
        if scale < scales - 1:
            read.append(vqvae.next_input(f_hat, scale))
    return torch.cat(read, 1), torch.cat(answers, 1)


class _MapByMap:
    """Teacher forcing without a mask: each map attends to its own prefix, which is what the mask would leave of it.

    Plain products in the dtype of the inputs: on a CPU, in bfloat16, they take two thirds of the fused kernel's time.
    """

    def __init__(self, sides: Sequence[int]) -> None:
        self.sizes = [side * side for side in sides]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        outs, end = [], 0
        with torch.autocast("cpu", enabled=False):
            for size in self.sizes:
                start, end = end, end + size
                weights = (q[:, :, start:end] * softmax_scale @ k[:, :, :end].mT).softmax(-1)
                outs.append(weights @ v[:, :, :end])
            return torch.cat(outs, 2)

    def close(self) -> None:
        """Has nothing to forget."""


def _prefix_logits(var: VAR, labels: Tensor, read: Tensor, scales: int) -> Tensor:
    d = var.class_emb(labels)
    h = torch.cat((var.embed(d, None, 0), var.embed(d, read, 1)), dim=1)
    return var.run_blocks(h, d, _MapByMap(var.config.patch_sides[:scales]))


def var_loss(var: VAR, labels: Tensor, read: Tensor, answers: Tensor, scales: int, *, half: bool = True) -> Tensor:
    """Returns the cross entropy of the first `scales` maps, a scalar; a map of side p weighs p, its tokens 1/p each.

    So the first maps, which decide on the form, are not drowned by the last two, which hold five tokens of eight.

    Args:
        var: in training mode.
        labels: (B,), with "no class" already put in where guidance is to be learnt.
        read: (B, L - 1, Cvae).
        answers: (B, L).
        scales: how many maps those are. No map sees a later one, so a prefix is learnt exactly, and cheaply.
        half: matrix products in bfloat16.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        logits = _prefix_logits(var, labels, read, scales)
    losses = F.cross_entropy(logits.float().flatten(0, 1), answers.flatten(), reduction="none").view(answers.shape)
    sides = var.config.patch_sides
    weights = torch.cat([torch.full((side * side,), 1 / side) for side in sides[:scales]])
    return (losses.mean(0) * weights).sum() / sum(sides)
