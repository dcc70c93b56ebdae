"""A HART with the structure of the official object (its attribute names and its way of caching), for tests without it.

Written from the formulas; names and order of calls are those of the official object. What is not attention is taken over, weights
and all, from a HART of ours, so the two can be compared number by number.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.hart.context import Context
from scalekv_adapters.hart.generation import HART, HARTImages
from scalekv_adapters.hart.transformer import Block, SelfAttention
from scalekv_core.models.sampling import Sampling


class MapRotary(nn.Module):
    """Cosines and sines (B, n, D) of rows and columns (B, n, 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10_000.0 ** (-4 * torch.arange(width // 4) / width), persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids.float()[..., None] * self.inv_freq.float()  # (B, n, 2, D / 4)
        both = torch.cat((angles, angles), dim=-1).flatten(2)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)


class TextRotary(nn.Module):
    """The same of text positions (B, T)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        theta = 10_000.0 ** (-torch.arange(0, self.width, 2).float() / self.width)
        half = position_ids.float()[..., None] * theta
        angles = torch.cat((half, half), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class StandInAttention(nn.Module):
    """Keeps all keys and values itself, from `kv_caching(True)` to `kv_caching(False)`."""

    def __init__(self, ours: SelfAttention, patch_nums: tuple[int, ...]) -> None:
        super().__init__()
        self.num_heads, self.head_dim = ours.heads, ours.proj.in_features // ours.heads
        self.patch_nums, self.attn_l2_norm, self.scale = patch_nums, ours.l2_norm, ours.softmax_scale
        self.qkv_proj, self.proj, self.proj_drop, self.attn_drop = ours.qkv_proj, ours.proj, nn.Identity(), 0.0
        self.q_bias, self.v_bias = ours.q_bias, ours.v_bias
        self.register_buffer("zero_k_bias", ours.zero_k_bias)
        self.rotary_emb, self.context_rotary_emb = MapRotary(self.head_dim), TextRotary(self.head_dim)
        if self.attn_l2_norm:
            self.scale_mul_1H11, self.max_scale_mul = ours.scale_mul_1H11, math.log(100)
        self.kv_caching(False)

    def kv_caching(self, enable: bool) -> None:
        self.caching, self.cached_k, self.cached_v = enable, None, None

    def forward(self, x, attn_bias, si=-1, context_position_ids=None, context_mask=None, m_maskgit=None):
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        qkv = F.linear(x, self.qkv_proj.weight, bias).view(*x.shape[:2], 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.attn_l2_norm:
            q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(self.max_scale_mul).exp()
            k = F.normalize(k, dim=-1)
        cos, sin = self._rotation(v, si, context_position_ids, m_maskgit)
        q, k = (part * cos + torch.cat((-part[..., part.shape[-1] // 2 :], part[..., : part.shape[-1] // 2]), -1) * sin
                for part in (q, k))  # fmt: skip
        if self.caching:
            earlier = () if self.cached_k is None else ((self.cached_k, self.cached_v),)
            k, v = (torch.cat(parts, dim=2) for parts in zip(*earlier, (k, v), strict=True))
            self.cached_k, self.cached_v = k, v
        out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=attn_bias, scale=self.scale)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def _rotation(self, v, si, text, m_maskgit):
        if si == 0:
            cos, sin = self.context_rotary_emb(v, text)
        else:
            side, last = self.patch_nums[si], self.patch_nums[-1]
            along = torch.arange(side) / side * last
            places = torch.stack(torch.meshgrid(along, along, indexing="ij"), dim=-1).view(1, -1, 2)
            places = places.repeat(len(v), 1, 1)
            if m_maskgit is not None:
                places = places[m_maskgit].view(len(v), -1, 2)
            cos, sin = self.rotary_emb(v, places + text[:, -1, None, None])
        return cos.unsqueeze(1), sin.unsqueeze(1)


class StandInBlock(nn.Module):
    """Attention and feed-forward network behind one norm."""

    def __init__(self, ours: Block, patch_nums: tuple[int, ...]) -> None:
        super().__init__()
        self.ours = [ours]
        self.attn, self.ffn, self.ln_wo_grad = StandInAttention(ours.attn, patch_nums), ours.ffn, ours.ln_wo_grad

    def forward(self, x, cond_BD, attn_bias, **about):
        if self.ours[0].adaln == "none":
            x = x + self.attn(self.ln_wo_grad(x), attn_bias=attn_bias, **about)
            return x + self.ffn(self.ln_wo_grad(x))
        gamma1, gamma2, scale1, scale2, shift1, shift2 = self.ours[0].modulation(cond_BD)
        x = x + gamma1 * self.attn(self.ln_wo_grad(x) * (1 + scale1) + shift1, attn_bias=attn_bias, **about)
        return x + gamma2 * self.ffn(self.ln_wo_grad(x) * (1 + scale2) + shift2)


class StandInHART(nn.Module):
    """Generates as the official loop does: all blocks per map, a mask over the last map's positions, always guided.

    Attributes:
        drawn: (logits, tokens) of every scale of the last image, which the official code does not return.
    """

    def __init__(self, ours: HART) -> None:
        super().__init__()
        self.ours = [ours]  # in a list, where nn.Module does not look
        self.patch_nums, self.context_token = ours.config.patch_sides, ours.config.context_tokens
        self.blocks = nn.ModuleList(StandInBlock(block, self.patch_nums) for block in ours.blocks)
        self.head, self.head_nm, self.diffloss = ours.head, ours.head_nm, ours.diffloss
        self.word_embed, self.context_embed, self.decoder_norm = ours.word_embed, ours.context_embed, ours.decoder_norm
        self.drawn: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def autoregressive_infer_cfg(self, label_B, context_mask, cfg=4.5, num_maskgit_iters=1):
        """Images (B, 3, H, W) in [0, 1]; the likeliest codes. In parts, the last map is passed but not shown."""
        self.drawn.clear()
        images = HARTImages(self.ours[0], Context(label_B, context_mask), Sampling(guidance=cfg, greedy=True))
        text = images.context.real.cumsum(1) - 1
        for block in self.blocks:
            block.attn.kv_caching(True)
        try:
            for scale in range(len(self.patch_nums)):
                self._draw(images, scale, text, num_maskgit_iters)
        finally:
            for block in self.blocks:
                block.attn.kv_caching(False)
        return images.pictures(images.total)

    def _draw(self, images, scale, text, parts):
        x, last = images._embedded(scale), scale == len(self.patch_nums) - 1
        places = torch.ones(x.shape[:2], dtype=torch.bool)
        places[:, x.shape[1] // parts :] &= parts == 1 or not last
        mask = places.nonzero(as_tuple=True) if last else None
        x = x[places].view(len(x), -1, x.shape[-1])
        for block in self.blocks:
            x = block(x, images.condition, None, si=scale, context_position_ids=text, m_maskgit=mask)
        images.hidden = x if scale else x[:, -1:]
        logits = images.model.logits_of(images.hidden, images.condition)
        if images.guidance:
            t = images._strength(scale)
            logits = (1 + t) * logits[: images.images] - t * logits[images.images :]
        tokens = images.choose(logits, scale, None)
        images.total = images.with_map(tokens, scale)
        self.drawn.append((logits, tokens))
