"""An InfinityStar with the structure of the official object (its attribute names and its way of caching), for tests without it.

Written from the formulas; names and order of calls are those of the official object. What is not attention is taken over, weights
and all, from an InfinityStar of ours, so the two can be compared number by number.

The official attention repeats keys and values to all heads and puts the maps that are read before the text. Softmax does not depend on
that, but the last bits of its sums do. By default the stand-in sums as our caches do, so that equal can mean equal in every
bit; with ``repeats`` it does what the official code does.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.generation import steps
from scalekv_adapters.infinitystar.generation import Clips, InfinityStar
from scalekv_adapters.infinitystar.rotation import Rotation
from scalekv_adapters.infinitystar.transformer import Block, SelfAttention
from scalekv_core import ops


class StandInAttention(nn.Module):
    """Keeps the keys and values of every map itself, by name, until no later map reads them."""

    def __init__(self, ours: SelfAttention, *, repeats: bool) -> None:
        super().__init__()
        self.repeats = repeats
        self.head_dim = ours.head_dim
        self.num_heads = ours.q_proj.out_features // self.head_dim
        self.num_key_value_heads = ours.k_proj.out_features // self.head_dim
        self.num_key_value_groups = self.num_heads // self.num_key_value_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = ours.q_proj, ours.k_proj, ours.v_proj, ours.o_proj
        self.q_norm, self.k_norm = ours.q_norm, ours.k_norm
        self.kv_caching(False)

    def kv_caching(self, enable: bool) -> None:
        self.caching, self.cached_k, self.cached_v = enable, {}, {}

    def forward(
        self, x, attn_bias_or_two_vector, attn_fn=None, rope2d_freqs_grid=(), scale_schedule=(), scale_ind=0,
        context_info=None, last_repetition_step=True, ref_text_scale_inds=(),
    ):  # fmt: skip
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        turn = Rotation(torch.complex(*rope2d_freqs_grid[:, 0, 0, 0])).turn
        q, k, v = turn(self.q_norm(q).transpose(1, 2)), turn(self.k_norm(k).transpose(1, 2)), v.transpose(1, 2)
        if self.caching:
            k, v = self._with_earlier(k, v, scale_ind, context_info, last_repetition_step, ref_text_scale_inds)
        if self.repeats or attn_bias_or_two_vector is not None:
            k, v = (part.repeat_interleave(self.num_key_value_groups, dim=1) for part in (k, v))
        grouped = ops.side_by_side(q.to(v.dtype), k.shape[1])
        out = F.scaled_dot_product_attention(
            grouped, k.to(v.dtype), v, attn_mask=attn_bias_or_two_vector, scale=self.head_dim**-0.5
        )
        out = ops.apart(out, self.num_heads)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _with_earlier(self, k, v, scale_ind, context_info, last, texts):
        own = (k, v)
        if last:
            self.cached_k[scale_ind], self.cached_v[scale_ind] = own
        if isinstance(scale_ind, int):
            maps = context_info[scale_ind]["ref_sids"]
            read = [*maps, *texts] if self.repeats else [*texts, *maps]
            k, v = (
                torch.cat([*(kept[m] for m in read), part], dim=2)
                for kept, part in zip((self.cached_k, self.cached_v), own, strict=True)
            )
            needed = {m for later in range(scale_ind, len(context_info)) for m in context_info[later]["ref_sids"]}
            for m in range(scale_ind):
                if m not in needed:
                    self.cached_k[m] = self.cached_v[m] = None
        return k, v


class StandInBlock(nn.Module):
    """Attention and feed-forward network, each behind a norm of its own."""

    def __init__(self, ours: Block, *, repeats: bool) -> None:
        super().__init__()
        self.attn, self.mlp = StandInAttention(ours.attn, repeats=repeats), ours.mlp
        self.input_layernorm, self.post_attention_layernorm = ours.input_layernorm, ours.post_attention_layernorm

    def forward(self, x, attn_bias_or_two_vector, **about):
        x = x + self.attn(self.input_layernorm(x), attn_bias_or_two_vector, None, **about)
        return x + self.mlp(self.post_attention_layernorm(x))


class StandInChunk(nn.Module):
    """Some blocks."""

    def __init__(self, blocks: list[StandInBlock]) -> None:
        super().__init__()
        self.module = nn.ModuleList(blocks)


class StandInInfinityStar(nn.Module):
    """Generates as the official loop does: text first, then conditions, then every pass of every map.

    Attributes:
        passed: (logits, bits) of every pass of the last clip; the official code returns the bits only.
    """

    def __init__(self, ours: InfinityStar, *, repeats: bool = False) -> None:
        super().__init__()
        self.ours = [ours]  # in a list, where nn.Module does not look
        self.text_proj, self.word_embed, self.cfg_uncond = ours.text_proj, ours.word_embed, ours.cfg_uncond
        self.head, self.semantic_head2, self.norm_hidden_sates = ours.head, ours.semantic_head2, ours.norm_hidden_sates
        self.block_chunks = nn.ModuleList(
            StandInChunk([StandInBlock(block, repeats=repeats) for block in chunk.module])
            for chunk in ours.block_chunks
        )
        self.unregistered_blocks = [block for chunk in self.block_chunks for block in chunk.module]
        self.passed: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def ar_infer_infinity_elegant(self, text, pyramids, choosing, story=None):
        """Clips (B, 3, F, H, W) in [0, 1] of the likelier bits."""
        shell = copy.copy(self.ours[0])
        vars(shell)["run_blocks"] = _Passes(self, pyramids)
        clips = Clips(shell, text, pyramids, choosing, story)
        for block in self.unregistered_blocks:
            block.attn.kv_caching(True)
        self.passed[:] = [(step.logits, step.tokens) for step in steps(clips, None, None)]
        for block in self.unregistered_blocks:
            block.attn.kv_caching(False)
        return clips.pictures(clips.total)


class _Passes:
    """All blocks for what comes next, told as the official loop tells it: its name or number, and who reads whom."""

    def __init__(self, model: StandInInfinityStar, pyramids) -> None:
        names = ["t0", "semantic_condition", "detail_condition"][: 1 + len(pyramids.conditions)]
        schedule = pyramids.schedule(1)
        reads = [[m - len(names) for m in read if m >= len(names)] for read in schedule.reads[len(names) :]]
        self.model, self.names, self.maps = model, [*names, *range(len(pyramids.maps))], list(pyramids.maps)
        self.context = {m: {"ref_sids": read} for m, read in enumerate(reads)}
        self.next = 0

    def __call__(self, x, rotation, cache, *, store=True):
        number = self.names[self.next]
        self.next += store
        texts = [name for name in self.names if isinstance(name, str)] if isinstance(number, int) else []
        grid = torch.stack((rotation.turns.real, rotation.turns.imag))[:, None, None, None]
        for block in self.model.unregistered_blocks:
            x = block(
                x, None, rope2d_freqs_grid=grid, scale_schedule=self.maps, scale_ind=number, context_info=self.context,
                last_repetition_step=store, ref_text_scale_inds=texts,
            )  # fmt: skip
        return x
