"""The VAR transformer: one scale of token maps in, the logits of the next out.

Attention never keeps anything. Each block computes queries, keys and values exactly as attention reads them and hands
them to a cache, which answers with the attention's output. So a compressed cache needs no change in here, and teacher
forcing is a cache too: one that holds everything and masks the future.
Source: Tian et al., Visual Autoregressive Modeling, 2024 (arXiv 2404.02905).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.initial import init_near_identity
from scalekv_adapters.teacher_forcing import MaskedAttention, dropped, future_mask
from scalekv_adapters.var.config import VARConfig
from scalekv_core.contracts.adapter import AttentionCache

MAX_LOG_HEAD_SCALE = math.log(100)


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm without weights, eps 1e-6, over the last axis."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def adaln_linear(width: int, parts: int) -> nn.Sequential:
    """SiLU and a linear layer from a condition (B, C) to so many vectors of that width."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


class SelfAttention(nn.Module):
    """Self-attention of one layer; who attends to what is the cache's business."""

    zero_k_bias: Tensor

    def __init__(self, config: VARConfig, layer: int) -> None:
        super().__init__()
        C, H = config.width, config.heads
        self.layer, self.heads, self.l2_norm = layer, H, config.attn_l2_norm
        self.softmax_scale = 1.0 if self.l2_norm else 0.25 / math.sqrt(C // H)
        self.mat_qkv = nn.Linear(C, 3 * C, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(C))
        self.v_bias = nn.Parameter(torch.zeros(C))
        self.register_buffer("zero_k_bias", torch.zeros(C))
        self.proj = nn.Linear(C, C)
        if self.l2_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, H, 1, 1), math.log(4.0)))  # in the logarithm

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, n, c) of x (B, n, C), with bias, l2 norm and head scale if there are any."""
        bias = torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))
        rows = F.linear(x, self.mat_qkv.weight, bias).view(*x.shape[:2], 3, self.heads, -1)  # (B, n, 3, H, c)
        q, k, v = rows.permute(2, 0, 3, 1, 4)
        if self.l2_norm:
            scale = self.scale_mul_1H11.float().clamp_max(MAX_LOG_HEAD_SCALE).exp()
            q = (F.normalize(q.float(), dim=-1) * scale).to(v.dtype)
            k = F.normalize(k.float(), dim=-1).to(v.dtype)
        return q, k, v

    def forward(self, x: Tensor, cache: AttentionCache) -> Tensor:
        q, k, v = self.qkv(x)
        out = cache.attend(self.layer, q, k, v, softmax_scale=self.softmax_scale)  # (B, H, n, c)
        projected: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """Two linear layers with a GELU (tanh approximation) between them."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """Attention and feed-forward network, each scaled, shifted and gated by the condition (AdaLN)."""

    def __init__(self, config: VARConfig, layer: int) -> None:
        super().__init__()
        self.shared_adaln = config.shared_adaln
        self.attn = SelfAttention(config, layer)
        self.ffn = FeedForward(config)
        if self.shared_adaln:
            self.ada_gss = nn.Parameter(torch.randn(1, 1, 6, config.width) / math.sqrt(config.width))
        else:
            self.ada_lin = adaln_linear(config.width, 6)

    def modulation(self, condition: Tensor) -> tuple[Tensor, ...]:
        """gamma1, gamma2, scale1, scale2, shift1, shift2, each (B, 1, C)."""
        six = condition + self.ada_gss if self.shared_adaln else self.ada_lin(condition).view(len(condition), 1, 6, -1)
        parts: tuple[Tensor, ...] = six.unbind(2)
        return parts

    def forward(self, x: Tensor, condition: Tensor, cache: AttentionCache) -> Tensor:
        gamma1, gamma2, scale1, scale2, shift1, shift2 = self.modulation(condition)
        x = x + gamma1 * self.attn(layer_norm(x) * (1 + scale1) + shift1, cache)
        return x + gamma2 * self.ffn(layer_norm(x) * (1 + scale2) + shift2)


class HeadNorm(nn.Module):
    """The layer norm before the head, scaled and shifted by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = adaln_linear(width, 2)

    def forward(self, x: Tensor, d: Tensor) -> Tensor:
        scale, shift = self.ada_lin(d).view(len(d), 1, 2, -1).unbind(2)
        out: Tensor = layer_norm(x) * (1 + scale) + shift
        return out


class VARTransformer(nn.Module):
    """A class-conditional VAR transformer of these sizes."""

    lvl_1L: Tensor
    attn_bias_for_masking: Tensor

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.config = config
        C, L = config.width, config.tokens
        self.word_embed = nn.Linear(config.code_width, C)
        self.class_emb = nn.Embedding(config.num_classes + 1, C)  # the last row is "no class"
        self.pos_start = nn.Parameter(torch.zeros(1, 1, C))
        self.pos_1LC = nn.Parameter(torch.zeros(1, L, C))
        self.lvl_embed = nn.Embedding(len(config.patch_sides), C)
        if config.shared_adaln:
            self.shared_ada_lin = adaln_linear(C, 6)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.head_nm = HeadNorm(C)
        self.head = nn.Linear(C, config.codes)
        levels = torch.tensor([k for k, side in enumerate(config.patch_sides) for _ in range(side * side)])
        self.register_buffer("lvl_1L", levels.view(1, L))
        self.register_buffer("attn_bias_for_masking", future_mask(levels))
        tables = (self.class_emb.weight, self.lvl_embed.weight, self.pos_start, self.pos_1LC)
        init_near_identity(self, self.blocks, tables=tables, depth=config.depth, width=C)

    def embed(self, d: Tensor, x: Tensor | None, start: int) -> Tensor:
        """Block input (B, n, C) of the tokens from `start` on: the first one from d (B, C), later ones from x (B, n, Cvae)."""
        tokens = (d[:, None] + self.pos_start) if x is None else self.word_embed(x.to(self.word_embed.weight.dtype))
        stop = start + tokens.shape[1]
        out: Tensor = tokens + self.lvl_embed(self.lvl_1L[:, start:stop]) + self.pos_1LC[:, start:stop]
        return out

    def run_blocks(self, h: Tensor, d: Tensor, cache: AttentionCache) -> Tensor:
        """Logits (B, n, V), float32, of block input h (B, n, C) under the condition d (B, C)."""
        condition = self.shared_ada_lin(d).view(len(d), 1, 6, -1) if self.config.shared_adaln else d
        for block in self.blocks:
            h = block(h, condition, cache)
        logits: Tensor = self.head(self.head_nm(h, d)).float()
        return logits

    def forward(
        self, labels: Tensor, x: Tensor, *, drop: Tensor | float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Teacher-forced logits (B, L, V) of all scales at once.

        Args:
            labels: (B,) classes.
            x: (B, L - 1, Cvae) what `VQVAE.teacher_inputs` returns.
            drop: which labels become "no class", so that guidance can be learnt: a mask (B,), or a probability.
            generator: samples the mask, if `drop` is a probability.
        """
        d = self.class_emb(drop_labels(labels, drop, self.config.num_classes, generator))
        h = torch.cat((self.embed(d, None, 0), self.embed(d, x, 1)), dim=1)
        mask = self.attn_bias_for_masking.to(h.dtype)
        return self.run_blocks(h, d, MaskedAttention(mask))


def drop_labels(labels: Tensor, drop: Tensor | float, no_class: int, generator: torch.Generator | None) -> Tensor:
    """Labels (B,) with some replaced by `no_class`: those of a mask (B,), or each with a probability."""
    return labels.masked_fill(dropped(drop, len(labels), generator).to(labels.device), no_class)
