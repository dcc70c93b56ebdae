"""The residual diffusion: what the discrete codes of the last map could not express, token by token.

Source: HART, section 3; the network and its noise schedule are those of Li et al., Autoregressive Image Generation without Vector
Quantization, 2024 (arXiv 2406.11838), and of Nichol and Dhariwal, Improved Denoising Diffusion, 2021 (arXiv 2102.09672).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

FREQUENCIES = 128
TRAINED_STEPS = 1000
LARGEST_BETA = 0.999
RESIDUAL_SCALE = 0.6
EPS = 1e-6


class Sinusoid(nn.Module):
    """(..., C) of numbers: a small network of 128 cosines and sines of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, number: Tensor) -> Tensor:
        rates = 10_000 ** (-torch.arange(FREQUENCIES, device=number.device).float() / FREQUENCIES)
        angles = number.float()[..., None] * rates
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1)
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        out: Tensor = self.mlp(waves.to(first.weight.dtype))
        return out


def modulation(width: int, parts: int) -> nn.Sequential:
    """SiLU and a linear layer to so many vectors."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


class ResidualBlock(nn.Module):
    """A small network behind a norm, shifted, scaled and gated by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = modulation(width, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(y).chunk(3, dim=-1)
        out: Tensor = x + gate * self.mlp(self.in_ln(x) * (1 + scale) + shift)
        return out


class FinalLayer(nn.Module):
    """To the predicted noise and variance."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * channels)
        self.adaLN_modulation = modulation(width, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(y).chunk(2, dim=-1)
        out: Tensor = self.linear(F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift)
        return out


class DiffusionHead(nn.Module):
    """Predicts noise and variance (N, 2 d) of noisy tokens (N, d) at a step, told of each by a condition (N, C)."""

    def __init__(self, channels: int, condition: int, width: int, depth: int) -> None:
        super().__init__()
        self.time_embed = Sinusoid(width)
        self.cond_embed = nn.Linear(condition, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, channels)

    def forward(self, x: Tensor, step: int, condition: Tensor) -> Tensor:
        y = self.time_embed(torch.tensor(step, device=x.device)) + self.cond_embed(condition)
        x = self.input_proj(x)
        for block in self.res_blocks:
            x = block(x, y)
        out: Tensor = self.final_layer(x, y)
        return out


@frozen
class NoiseStep:
    """One of the kept steps of the noise schedule.

    Attributes:
        number: the step as it was trained, from 0.
        left: A, the share of the signal that is left after it.
        before: A of the kept step before; 1 at the first.
        log_posterior: log variance of the posterior; at the first step that of the second.
    """

    number: int
    left: float
    before: float
    log_posterior: float

    @property
    def beta(self) -> float:
        """The noise that this kept step adds."""
        return 1 - self.left / self.before


def noise_steps(steps: int) -> list[NoiseStep]:
    """The kept steps, from the first to the last, of a cosine schedule of 1000.

    >>> [step.number for step in noise_steps(8)]
    [0, 143, 285, 428, 571, 714, 856, 999]
    """
    kept = [round(i * (TRAINED_STEPS - 1) / max(1, steps - 1)) for i in range(steps)]
    left, product = [], 1.0
    for i in range(TRAINED_STEPS):
        product *= 1 - min(1 - _signal((i + 1) / TRAINED_STEPS) / _signal(i / TRAINED_STEPS), LARGEST_BETA)
        left.append(product)
    pairs = [(left[n], left[kept[i - 1]] if i else 1.0) for i, n in enumerate(kept)]
    variances = [(1 - a / b) * (1 - b) / (1 - a) for a, b in pairs]
    variances[0] = variances[1] if steps > 1 else 1e-20
    return [NoiseStep(n, a, b, math.log(v)) for n, (a, b), v in zip(kept, pairs, variances, strict=True)]


def _signal(share: float) -> float:
    return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2


def diffused(head: DiffusionHead, condition: Tensor, noise: list[Tensor], *, guidance: float, steps: int) -> Tensor:
    """Residuals (N, d) of tokens, by so many steps from the last to the first.

    Args:
        head: predicts noise and variance.
        condition: (N, C), or with guidance (2 N, C), conditioned tokens first.
        noise: (N, d) each, the start and one for every step; that of the last one is not used.
        guidance: t in (1 + t) * conditioned - t * unconditioned, of the predicted noise alone.
        steps: how many.
    """
    x = noise[0]
    for step, fresh in zip(reversed(noise_steps(steps)), noise[1:], strict=True):
        both = x if len(condition) == len(x) else x.repeat(2, 1)
        eps, v = head(both.to(condition.dtype), step.number, condition).float().chunk(2, dim=-1)
        if len(condition) != len(x):
            guided, unguided = eps.chunk(2)
            eps, v = (1 + guidance) * guided - guidance * unguided, v[: len(x)]
        x = _denoised(x, eps, v, step, fresh)
    return RESIDUAL_SCALE * x


def _denoised(x: Tensor, eps: Tensor, v: Tensor, step: NoiseStep, fresh: Tensor) -> Tensor:
    """x one kept step earlier."""
    left, before, beta = step.left, step.before, step.beta
    clean = (x / math.sqrt(left) - math.sqrt(1 / left - 1) * eps).clamp(-1, 1)
    mean = beta * math.sqrt(before) / (1 - left) * clean + (1 - before) * math.sqrt(left / before) / (1 - left) * x
    if before == 1.0:
        return mean
    share = (v + 1) / 2
    log_variance = share * math.log(beta) + (1 - share) * step.log_posterior
    return mean + (0.5 * log_variance).exp() * fresh
