"""The InfinityStar transformer: text, or one map after another, in, and hidden states out.

Attention keeps nothing: each block hands its queries, keys and values to a cache, which answers with the attention's output.
Source: Liu et al., InfinityStar: Unified Spacetime AutoRegressive Modeling for Visual Generation, 2025 (arXiv 2511.04675).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.pyramids import DETAIL_BITS, SEMANTIC_BITS
from scalekv_adapters.infinitystar.rotation import Rotation
from scalekv_adapters.llama import GatedFeedForward, RMSNorm
from scalekv_core.contracts.adapter import AttentionCache

HEADS = ("head", "semantic_head2")
"""What makes logits of hidden states."""


class SelfAttention(nn.Module):
    """Self-attention of one layer with fewer key/value heads than query heads; who reads whom is the cache's business."""

    def __init__(self, config: InfinityStarConfig, layer: int) -> None:
        super().__init__()
        width, narrow = config.width, config.kv_heads * config.head_dim
        self.layer, self.head_dim = layer, config.head_dim
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, narrow, bias=False)
        self.v_proj = nn.Linear(width, narrow, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = RMSNorm(config.head_dim), RMSNorm(config.head_dim)

    def qkv(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, g H, n, D), keys and values (B, H, n, D) of x (B, n, C), as attention reads them."""
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2)
        return rotation.turn(q).to(v.dtype), rotation.turn(k).to(v.dtype), v.transpose(1, 2)

    def forward(self, x: Tensor, rotation: Rotation, cache: AttentionCache, *, store: bool) -> Tensor:
        q, k, v = self.qkv(x, rotation)
        out = cache.attend(self.layer, q, k, v, softmax_scale=self.head_dim**-0.5, store=store)
        projected: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """Attention and feed-forward network, each behind a norm of its own."""

    def __init__(self, config: InfinityStarConfig, layer: int) -> None:
        super().__init__()
        self.attn = SelfAttention(config, layer)
        self.mlp = GatedFeedForward(config.width, config.hidden)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(config.width), RMSNorm(config.width)

    def forward(self, x: Tensor, rotation: Rotation, cache: AttentionCache, *, store: bool) -> Tensor:
        x = x + self.attn(self.input_layernorm(x), rotation, cache, store=store)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Chunk(nn.Module):
    """Consecutive blocks, under their official name."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.module = nn.ModuleList(blocks)


class InfinityStarTransformer(nn.Module):
    """An InfinityStar transformer of these sizes, with the official names of all weights."""

    def __init__(self, config: InfinityStarConfig) -> None:
        super().__init__()
        self.config = config
        width, each = config.width, config.depth // config.chunks
        self.cfg_uncond = nn.Parameter(torch.zeros(config.text_window, config.text_width))
        self.sos_token = nn.Parameter(torch.zeros(1, 1, width))  # published, and never used
        self.text_proj = nn.Linear(config.text_width, width)
        self.word_embed = nn.Linear(config.code_width, width)
        self.norm_hidden_sates = RMSNorm(width)  # its official name
        self.head = nn.Linear(width, 2 * DETAIL_BITS)
        self.semantic_head2 = nn.Linear(width, 2 * SEMANTIC_BITS)
        layers = [list(range(start, start + each)) for start in range(0, config.depth, each)]
        self.block_chunks = nn.ModuleList(Chunk([Block(config, layer) for layer in chunk]) for chunk in layers)

    def published_in(self, dtype: torch.dtype) -> InfinityStarTransformer:
        """Puts all weights into this dtype, in place, but those of the heads, which published runs keep in float32."""
        self.to(dtype)
        for name, part in self.named_children():
            if name in HEADS:
                part.float()
        return self

    @property
    def blocks(self) -> list[Block]:
        """All blocks in order."""
        return [b for chunk in self.block_chunks for b in chunk.module]  # type: ignore[union-attr]

    @property
    def dtype(self) -> torch.dtype:
        """Of the blocks' weights, hence of what attention reads."""
        return self.text_proj.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text_proj.weight.device

    def embed_text(self, features: Tensor) -> Tensor:
        """(B, T, C) of text features (B, T, text width)."""
        out: Tensor = self.text_proj(features.to(self.device, self.dtype))
        return out

    def embed_map(self, x: Tensor) -> Tensor:
        """(B, n, C) of averaged sums of codes (B, code width, t, h, w)."""
        out: Tensor = self.word_embed(x.flatten(2).mT.to(self.dtype))
        return out

    def rotation(self, where: Tensor) -> Rotation:
        """Of tokens that lie there, (n, 4)."""
        return Rotation.of(where, self.config.head_dim, self.device)

    def run_blocks(self, x: Tensor, rotation: Rotation, cache: AttentionCache, *, store: bool = True) -> Tensor:
        """Hidden states (B, n, C) after all blocks; ``store`` says whether a later map may read this one."""
        for block in self.blocks:
            x = block(x, rotation, cache, store=store)
        return x

    def logits_of(self, hidden: Tensor, bits: int) -> Tensor:
        """(B, n, 2 bits) float32, two logits for each bit of a semantic or a detail code."""
        head = self.semantic_head2 if bits == SEMANTIC_BITS else self.head
        return F.linear(self.norm_hidden_sates(hidden).float(), head.weight.float(), head.bias.float())
