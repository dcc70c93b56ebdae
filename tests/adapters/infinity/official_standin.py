"""An Infinity with the structure of the official object (its attribute names and its way of caching), for tests without it.

Written from the formulas of the paper; names and order of calls are those of the official object. What is not attention is
taken over, weights and all, from an Infinity of ours, so the two can be compared number by number.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.infinity.bits import add_bits, on_grid, to_bits, to_tokens
from scalekv_adapters.infinity.block import Block, Condition, SelfAttention
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.guidance import mixed
from scalekv_adapters.infinity.precision import layer_norm, wide
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.rotation import Rotation
from scalekv_adapters.infinity.templates import ASPECTS, PIXELS, Canvas
from scalekv_adapters.infinity.transformer import levels_of
from scalekv_adapters.teacher_forcing import future_mask

PADDED = 128


def key_of(canvas: Canvas) -> str:
    """The name that the official tables give a schedule."""
    return str(tuple((1, h, w) for h, w in canvas.maps))


@functools.cache
def rotation_grids(head_dim: int) -> dict[str, Tensor]:
    """{schedule: (2, 1, 1, 1, L, D/2)} cosines and sines of the whole list of every aspect ratio, padded with zeros."""
    grids = {}
    for aspect in ASPECTS:
        rotation = Rotation.of(Canvas(aspect, "1M"), head_dim, torch.device("cpu"))
        both = torch.view_as_real(rotation.turns).movedim(-1, 0)
        padded = F.pad(both, (0, 0, 0, -both.shape[1] % PADDED))[:, None, None, None]
        grids |= {key_of(Canvas(aspect, pixels)): padded for pixels in PIXELS}
    return grids


class StandInAttention(nn.Module):
    """Keeps all keys and values itself, from `kv_caching(True)` to `kv_caching(False)`, as (B, H, L, D) or (B, L, H, D)."""

    def __init__(self, ours: SelfAttention, *, flash: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim = ours.heads, ours.proj.in_features // ours.heads
        self.scale, self.using_flash, self.max_scale_mul = 1, flash, math.log(100)
        self.mat_qkv, self.proj, self.proj_drop = ours.mat_qkv, ours.proj, nn.Identity()
        self.q_bias, self.v_bias = ours.q_bias, ours.v_bias
        self.register_buffer("zero_k_bias", ours.zero_k_bias)
        shape = (1, 1, ours.heads, 1) if flash else (1, ours.heads, 1, 1)
        self.scale_mul_1H11 = nn.Parameter(ours.scale_mul_1H11.detach().view(shape), requires_grad=False)
        self.kv_caching(False)

    def kv_caching(self, enable: bool) -> None:
        self.caching, self.cached_k, self.cached_v = enable, None, None

    def forward(
        self, x, attn_bias_or_two_vector, attn_fn=None, scale_schedule=None, rope2d_freqs_grid=None, scale_ind=0
    ):
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        rows = F.linear(x, self.mat_qkv.weight, bias).unflatten(-1, (3, self.num_heads, self.head_dim))
        tokens = 1 if self.using_flash else 2
        q, k, v = (rows if self.using_flash else rows.transpose(1, 3)).unbind(2)
        q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(self.max_scale_mul).exp()
        k = F.normalize(k, dim=-1)
        if rope2d_freqs_grid is not None:
            q, k = self._turned((q, k), scale_schedule, rope2d_freqs_grid, scale_ind)
        if self.caching:
            earlier = () if self.cached_k is None else ((self.cached_k, self.cached_v),)
            k, v = (torch.cat(parts, dim=tokens) for parts in zip(*earlier, (k, v), strict=True))
            self.cached_k, self.cached_v = k, v
        q, k, v = (part.to(v.dtype).transpose(1, 2) if self.using_flash else part.to(v.dtype) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_bias_or_two_vector, scale=self.scale)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def _turned(self, parts, scale_schedule, grids, scale_ind):
        """Rotated along the third axis, which the tokens are on without flash, and the heads with it."""
        start = sum(t * h * w for t, h, w in scale_schedule[:scale_ind])
        cos, sin = grids[str(tuple(scale_schedule))][:, 0, 0, 0, start : start + parts[0].shape[2]]
        return [Rotation(torch.complex(cos, sin)).turn(part) for part in parts]


class StandInBlock(nn.Module):
    """Self-attention, cross attention and feed-forward network under a condition."""

    def __init__(self, ours: Block, *, flash: bool) -> None:
        super().__init__()
        self.sa, self.ca, self.ffn, self.ca_norm = (
            StandInAttention(ours.sa, flash=flash),
            ours.ca,
            ours.ffn,
            ours.ca_norm,
        )
        self.ada_gss = ours.ada_gss

    def forward(self, x, cond_BD, ca_kv, attn_bias_or_two_vector, scale_schedule, rope2d_freqs_grid, scale_ind=0):
        gamma1, gamma2, scale1, scale2, shift1, shift2 = (self.ada_gss + cond_BD).unbind(2)
        attended = self.sa(
            layer_norm(x) * (1 + scale1) + shift1,
            attn_bias_or_two_vector,
            None,
            scale_schedule,
            rope2d_freqs_grid,
            scale_ind=scale_ind,
        )
        x = x + gamma1 * attended
        x = x + self.ca(self.ca_norm(x), ca_kv)
        return x + gamma2 * self.ffn(layer_norm(x) * (1 + scale2) + shift2)


class StandInChunk(nn.Module):
    """Some blocks."""

    def __init__(self, blocks: list[StandInBlock]) -> None:
        super().__init__()
        self.module = nn.ModuleList(blocks)


class StandInInfinity(nn.Module):
    """Generates as the official loop does: each scale through all chunks of blocks, with the caller's schedule.

    Attributes:
        drawn: (logits, bits) of every scale of the last image; the official code returns the bits only.
    """

    def __init__(self, ours: Infinity, *, flash: bool = False) -> None:
        super().__init__()
        self.ours = [ours]  # in a list, where nn.Module does not look
        self.pn, self.apply_spatial_patchify = ours.canvas.pixels, int(ours.config.patch == 2)
        self.rope2d_freqs_grid = rotation_grids(ours.config.head_dim)
        self.text_proj_for_sos, self.head_nm, self.head = ours.text_proj_for_sos, ours.head_nm, ours.head
        blocks = [StandInBlock(block, flash=flash) for block in ours.blocks]
        each = len(blocks) // ours.config.block_chunks
        self.unregistered_blocks = blocks
        self.block_chunks = nn.ModuleList(StandInChunk(blocks[i : i + each]) for i in range(0, len(blocks), each))
        self.drawn: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def autoregressive_infer_cfg(self, vae, scale_schedule, label_B_or_BLT, B, cfg_list, top_k=1, inference_mode=True):
        """(nothing, bits of every scale, bytes (B, H, W, 3) with blue first) of the likelier bits."""
        (ours,) = self.ours
        self.drawn.clear()
        features, lens, *_ = label_B_or_BLT
        text = PackedText(features, lens)
        guided = any(cfg != 1 for cfg in cfg_list)
        condition = ours.condition(text.followed_by(ours.without_prompt(text)) if guided else text)
        patch = 1 + self.apply_spatial_patchify
        grids = [(patch * h, patch * w) for _, h, w in scale_schedule]
        x, total = ours.embed_start(condition), vae.empty_sum(B, grids[-1])
        for block in self.unregistered_blocks:
            block.sa.kv_caching(True)
        for scale, cfg in enumerate(cfg_list):
            logits = self._logits(x, condition, None, scale_schedule, scale)
            logits = mixed(logits, cfg) if guided else logits
            tokens = logits[..., 1::2] > logits[..., ::2]
            self.drawn.append((logits, tokens))
            total = add_bits(total, to_bits(tokens, grids[scale], patch))
            if scale < len(grids) - 1:
                read = to_tokens(on_grid(total, grids[scale + 1]), patch)
                x = ours.embed(read, scale + 1).repeat(len(condition.start) // B, 1, 1)
        for block in self.unregistered_blocks:
            block.sa.kv_caching(False)
        image = (vae.decode(total) + 1) / 2
        return [], [tokens for _, tokens in self.drawn], (image.permute(0, 2, 3, 1) * 255).to(torch.uint8).flip(3)

    def forward(self, text: PackedText, x: Tensor, scale_schedule) -> Tensor:
        """Teacher-forced logits (B, L, V)."""
        (ours,) = self.ours
        condition = ours.condition(text)
        levels = levels_of(ours.canvas.schedule, x.device)
        h = torch.cat([ours.embed_start(condition), ours.embed(x, levels[1:])], dim=1)
        return self._logits(h, condition, future_mask(levels), scale_schedule, 0)

    def _logits(self, x: Tensor, condition: Condition, attn_bias, scale_schedule, scale_ind) -> Tensor:
        (ours,) = self.ours
        for chunk in self.block_chunks:
            for block in chunk.module:
                x = block(
                    x=x,
                    cond_BD=condition.six,
                    ca_kv=condition.text,
                    attn_bias_or_two_vector=attn_bias,
                    scale_schedule=scale_schedule,
                    rope2d_freqs_grid=self.rope2d_freqs_grid,
                    scale_ind=scale_ind,
                )
        return ours.logits(wide(x), condition.start)
