"""A VAR with the structure of the official object (its attribute names and its way of caching), for tests without it.

Written from the formulas of the paper; names and order of calls are those of the official object. What is not attention is taken over, weights and all,
from a VAR of ours, so the two can be compared number by number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.sampling import choose, filter_logits, image_generators
from scalekv_adapters.var.generation import VAR
from scalekv_adapters.var.guidance import guide
from scalekv_adapters.var.transformer import Block, SelfAttention, layer_norm


class StandInAttention(nn.Module):
    """Keeps all keys and values itself, from `kv_caching(True)` to `kv_caching(False)`."""

    def __init__(self, ours: SelfAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = ours.heads, ours.proj.in_features // ours.heads
        self.attn_l2_norm, self.scale = ours.l2_norm, ours.softmax_scale
        self.mat_qkv, self.proj, self.proj_drop, self.attn_drop = ours.mat_qkv, ours.proj, nn.Identity(), 0.0
        self.q_bias, self.v_bias = ours.q_bias, ours.v_bias
        self.register_buffer("zero_k_bias", ours.zero_k_bias)
        if self.attn_l2_norm:
            self.scale_mul_1H11, self.max_scale_mul = ours.scale_mul_1H11, math.log(100)
        self.kv_caching(False)

    def kv_caching(self, enable: bool) -> None:
        self.caching, self.cached_k, self.cached_v = enable, None, None

    def forward(self, x, attn_bias):
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        q, k, v = (part.mT for part in self._parts(F.linear(x, self.mat_qkv.weight, bias)))
        if self.attn_l2_norm:
            q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(self.max_scale_mul).exp()
            k = F.normalize(k, dim=-1)
        if self.caching:
            earlier = () if self.cached_k is None else ((self.cached_k, self.cached_v),)
            k, v = (torch.cat(parts, dim=2) for parts in zip(*earlier, (k, v), strict=True))
            self.cached_k, self.cached_v = k, v
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_bias, scale=self.scale)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def _parts(self, qkv: Tensor) -> Sequence[Tensor]:
        """Three times (B, H, D, n)."""
        return qkv.mT.unflatten(1, (3, self.num_heads, self.head_dim)).unbind(1)


class StandInBlock(nn.Module):
    """Attention and feed-forward network under a condition."""

    def __init__(self, ours: Block) -> None:
        super().__init__()
        self.attn, self.ffn, self.modulation = StandInAttention(ours.attn), ours.ffn, ours.modulation

    def forward(self, x, cond_BD, attn_bias):
        gamma1, gamma2, scale1, scale2, shift1, shift2 = self.modulation(cond_BD)
        x = x + gamma1 * self.attn(layer_norm(x) * (1 + scale1) + shift1, attn_bias=attn_bias)
        return x + gamma2 * self.ffn(layer_norm(x) * (1 + scale2) + shift2)


class StandInVAR(nn.Module):
    """Generates as the official loop does: every scale through all blocks, always with guidance.

    Attributes:
        drawn: (logits, tokens) of every scale of the last image, which the official code does not return.
    """

    def __init__(self, ours: VAR) -> None:
        super().__init__()
        self.ours = [ours]  # in a list, where nn.Module does not look
        self.patch_nums = ours.config.patch_sides
        self.blocks = nn.ModuleList(StandInBlock(block) for block in ours.blocks)
        self.head, self.head_nm = ours.head, ours.head_nm
        self.register_buffer("lvl_1L", ours.lvl_1L)
        self.register_buffer("attn_bias_for_masking", ours.attn_bias_for_masking)
        self.drawn: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def autoregressive_infer_cfg(self, B, label_B, g_seed=None, cfg=1.5, top_k=0, top_p=0.0):
        """Images (B, 3, H, W) in [0, 1]."""
        (ours,) = self.ours
        self.drawn.clear()
        vqvae, starts = ours.vqvae, ours.config.schedule.history
        d = ours.class_emb(torch.cat([label_B, torch.full_like(label_B, ours.config.num_classes)]))
        x, f_hat = ours.embed(d, None, 0), vqvae.empty_map(B)
        generators = image_generators([g_seed] * B, B)
        for block in self.blocks:
            block.attn.kv_caching(True)
        for scale in range(len(starts)):
            logits = guide(self._logits(x, d, None), guidance=cfg, scale=scale, scales=len(starts))
            tokens = choose(filter_logits(logits, top_k=top_k, top_p=top_p), generators)
            self.drawn.append((logits, tokens))
            f_hat = vqvae.add_scale(f_hat, tokens, scale)
            if scale < len(starts) - 1:
                x = ours.embed(d, vqvae.next_input(f_hat, scale).repeat(2, 1, 1), starts[scale + 1])
        for block in self.blocks:
            block.attn.kv_caching(False)
        return (vqvae.decode(f_hat) + 1) / 2

    def forward(self, label_B, x_BLCv_wo_first_l):
        """Teacher-forced logits (B, L, V)."""
        (ours,) = self.ours
        d = ours.class_emb(label_B)
        x = torch.cat([ours.embed(d, None, 0), ours.embed(d, x_BLCv_wo_first_l, 1)], dim=1)
        return self._logits(x, d, self.attn_bias_for_masking)

    def _logits(self, x, d, attn_bias):
        (ours,) = self.ours
        shared = ours.config.shared_adaln
        condition = ours.shared_ada_lin(d).view(len(d), 1, 6, -1) if shared else d
        for block in self.blocks:
            x = block(x=x, cond_BD=condition, attn_bias=attn_bias)
        return self.head(self.head_nm(x.float(), d).float()).float()
