"""The Infinity transformer: the maps of an image so far in, the logits of the bits of the next map out.

Attention never keeps anything. Each block computes queries, keys and values exactly as attention reads them and hands
them to a cache, which answers with the attention's output. So a compressed cache needs no change in here, and teacher
forcing is a cache too: one that holds everything and masks the future.
Source: Han et al., Infinity, 2024 (arXiv 2412.04431).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from scalekv_adapters.infinity.block import Block, BlockChunk, Condition, HeadNorm
from scalekv_adapters.infinity.config import MAX_SCALES, InfinityConfig
from scalekv_adapters.infinity.inputs import check_inputs, check_text
from scalekv_adapters.infinity.precision import FromCondition, apart_from_autocast, wide
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.rotation import Rotation
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.text_attention import TextNorm, TextPool
from scalekv_adapters.initial import init_near_identity
from scalekv_adapters.teacher_forcing import MaskedAttention, dropped, future_mask
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.shapes.schedule import ScaleSchedule

NO_PROMPT_STD = 1.2
"""Of the features that stand for no prompt, before they are divided by the root of their width."""


class InfinityTransformer(nn.Module):
    """A text-conditional Infinity transformer.

    Args:
        config: its sizes.
        canvas: its default aspect ratio and size.

    Attributes:
        canvas: as given; may be assigned.
    """

    def __init__(self, config: InfinityConfig, *, canvas: Canvas | None = None) -> None:
        super().__init__()
        self.config = config
        self.canvas = canvas or Canvas()
        C = config.width
        self.cfg_uncond = nn.Parameter(torch.zeros(config.text_maxlen, config.text_channels))  # stands for no prompt
        self.text_norm = TextNorm(config.text_channels)
        self.text_proj_for_sos = TextPool(config)
        self.text_proj_for_ca = nn.Sequential(
            nn.Linear(config.text_channels, C), nn.GELU(approximate="tanh"), nn.Linear(C, C)
        )
        self.pos_start = nn.Parameter(torch.zeros(1, 1, C))
        self.lvl_embed = nn.Embedding(MAX_SCALES, C)
        self.word_embed = nn.Linear(config.token_bits, C)
        self.shared_ada_lin = FromCondition(C, 6)
        blocks = [Block(config, layer) for layer in range(config.depth)]
        each = config.depth // config.block_chunks
        self.block_chunks = nn.ModuleList(BlockChunk(blocks[i : i + each]) for i in range(0, config.depth, each))
        self.head_nm = HeadNorm(C)
        self.head = nn.Linear(C, 2 * config.token_bits)
        tables = (self.lvl_embed.weight, self.pos_start, self.text_proj_for_sos.ca.mat_q)
        init_near_identity(self, self.block_chunks, tables=tables, depth=config.depth, width=C)
        nn.init.trunc_normal_(self.cfg_uncond.data, std=NO_PROMPT_STD).div_(math.sqrt(config.text_channels))

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks, in order."""
        for chunk in self.block_chunks:
            assert isinstance(chunk, BlockChunk)
            for block in chunk.module:
                assert isinstance(block, Block)
                yield block

    @property
    def dtype(self) -> torch.dtype:
        """In which attention computes, unless autocast says otherwise."""
        return next(self.blocks).sa.mat_qkv.weight.dtype

    # what goes into the blocks

    def without_prompt(self, text: PackedText) -> PackedText:
        """A text of the same lengths that says nothing, learnt in training."""
        return text.with_features(self.cfg_uncond[text.place_in_prompt].to(text.features.dtype))

    def condition(self, text: PackedText) -> Condition:
        """What the blocks are told of these prompts (features of text_channels)."""
        normed = text.with_features(self.text_norm(text.features))
        start = wide(self.text_proj_for_sos(normed))
        weight = self.text_proj_for_ca[0].weight
        assert isinstance(weight, Tensor)
        read = self.text_proj_for_ca(normed.features.to(weight.dtype))
        return Condition(start=start, six=self.shared_ada_lin(start), text=normed.with_features(read))

    def embed_start(self, condition: Condition) -> Tensor:
        """(B, 1, C) the first token."""
        return condition.start[:, None] + wide(self.pos_start) + wide(self.lvl_embed.weight[0])

    def embed(self, x: Tensor, level: int | Tensor) -> Tensor:
        """Block input (B, n, C) of what the VAE's sum became, x (B, n, d'), at this scale or these scales (n,)."""
        return wide(self.word_embed(x.to(self.word_embed.weight.dtype))) + wide(self.lvl_embed.weight[level])

    # what comes out

    def run_blocks(
        self,
        h: Tensor,
        condition: Condition,
        rotation: Rotation,
        cache: AttentionCache,
        after_block: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Hidden states (B, n, C) of block input h (B, n, C).

        Args:
            h: embedded tokens.
            condition: what the prompts say.
            rotation: where the tokens are.
            cache: what attention talks to.
            after_block: is given the layer and what it put out, and returns what the next one gets.
        """
        for layer, block in enumerate(self.blocks):
            h = block(h, condition, rotation, cache)
            if after_block is not None:
                h = after_block(layer, h)
        return h

    def logits(self, h: Tensor, start: Tensor) -> Tensor:
        """Logits (B, n, 2d'), float32, of hidden states (B, n, C): for bit m the pair (2m, 2m + 1), for 0 and for 1."""
        return apart_from_autocast(self.head, self.head_nm(h, start))

    def forward(
        self,
        text: PackedText,
        x: Tensor,
        *,
        canvas: Canvas | None = None,
        drop: Tensor | float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Teacher-forced logits (B, L, 2d') of all scales at once.

        Args:
            text: B prompts.
            x: (B, L - 1, d') what `BSQVAE.teacher_inputs` returns.
            canvas: aspect ratio and size of the images; the model's own by default.
            drop: which prompts say nothing, so that guidance can be learnt: a mask (B,), or a probability.
            generator: samples the mask, if `drop` is a probability.

        Raises:
            InputError: the text or x do not fit the model, the canvas or each other.
        """
        canvas = canvas or self.canvas
        check_text(text, self.config)
        check_inputs(x, len(text), canvas, self.config)
        condition = self.condition(self.with_dropped(text, drop, generator))
        levels = levels_of(canvas.schedule, x.device)
        h = torch.cat((self.embed_start(condition), self.embed(x, levels[1:])), dim=1)
        rotation = Rotation.of(canvas, self.config.head_dim, x.device)
        mask = future_mask(levels).to(x.device, self.dtype)
        return self.logits(self.run_blocks(h, condition, rotation, MaskedAttention(mask)), condition.start)

    def with_dropped(self, text: PackedText, drop: Tensor | float, generator: torch.Generator | None) -> PackedText:
        """The text with some prompts saying nothing: those of a mask (B,), or each with a probability."""
        silent = dropped(drop, len(text), generator).to(text.features.device)[text.prompt_of]
        return text.with_features(torch.where(silent[:, None], self.without_prompt(text).features, text.features))


def levels_of(schedule: ScaleSchedule, device: torch.device) -> Tensor:
    """(L,) which scale every token belongs to."""
    tokens = torch.tensor(schedule.tokens)
    return torch.arange(len(tokens)).repeat_interleave(tokens).to(device)
