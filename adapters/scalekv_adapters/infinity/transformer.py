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
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from scalekv_adapters.infinity.config import MAX_SCALES, InfinityConfig
from scalekv_adapters.infinity.generation import generate
from scalekv_adapters.infinity.initial import init_weights
from scalekv_adapters.infinity.precision import AffineNorm, FromCondition, apart_from_autocast, modulated, wide
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.rotation import Rotation
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.text_attention import CrossAttention, TextNorm, TextPool
from scalekv_adapters.infinity.vae import BSQVAE
from scalekv_adapters.teacher_forcing import MaskedAttention, future_mask
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.errors import InputError
from scalekv_core.shapes.schedule import ScaleSchedule

MAX_LOG_HEAD_SCALE = math.log(100)


@frozen(eq=False, kw_only=True)
class Condition:
    """What every block is told of the prompts.

    Attributes:
        start: (B, C) the prompts summed up; the first token, and what norms are scaled and shifted by.
        six: (B, 1, 6, C) gamma1, gamma2, scale1, scale2, shift1, shift2, to which each block adds its own.
        text: what cross attention reads, (sum of lens, C).
    """

    start: Tensor
    six: Tensor
    text: PackedText


def length(x: Tensor) -> Tensor:
    """(..., 1) the length of x (..., D), at least 1e-12."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)


class SelfAttention(nn.Module):
    """Self-attention of one layer; who attends to what is the cache's business."""

    zero_k_bias: Tensor

    def __init__(self, config: InfinityConfig, layer: int) -> None:
        super().__init__()
        C, H = config.width, config.heads
        self.layer, self.heads = layer, H
        self.mat_qkv = nn.Linear(C, 3 * C, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(C))
        self.v_bias = nn.Parameter(torch.zeros(C))
        self.register_buffer("zero_k_bias", torch.zeros(C))
        self.proj = nn.Linear(C, C)
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, H, 1, 1), math.log(4.0)))  # in the logarithm

    def qkv(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, n, c) of x (B, n, C), with bias, l2 norm, head scale and rotation."""
        weight = self.mat_qkv.weight
        bias = torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))
        rows = F.linear(x.to(weight.dtype), weight, bias).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, c)
        q, k, v = rows.permute(2, 0, 3, 1, 4)
        scale = wide(self.scale_mul_1H11).clamp_max(MAX_LOG_HEAD_SCALE).exp()
        q, k = wide(q), wide(k)
        q = rotation.turn(q * (scale / length(q)))
        k = rotation.turn(k / length(k))
        return q.to(v.dtype), k.to(v.dtype), v

    def forward(self, x: Tensor, rotation: Rotation, cache: AttentionCache) -> Tensor:
        q, k, v = self.qkv(x, rotation)
        out = cache.attend(self.layer, q, k, v, softmax_scale=1.0)  # (B, H, n, c)
        projected: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """Two linear layers with a GELU (tanh approximation) between them."""

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x.to(self.fc1.weight.dtype)), approximate="tanh"))
        return out


class Block(nn.Module):
    """Self-attention, cross attention to the prompt and a feed-forward network; the condition gates the first and last."""

    def __init__(self, config: InfinityConfig, layer: int) -> None:
        super().__init__()
        self.sa = SelfAttention(config, layer)
        self.ca = CrossAttention(config)
        self.ffn = FeedForward(config)
        self.ca_norm = AffineNorm(config.width)
        self.ada_gss = nn.Parameter(torch.randn(1, 1, 6, config.width) / math.sqrt(config.width))

    def forward(self, x: Tensor, condition: Condition, rotation: Rotation, cache: AttentionCache) -> Tensor:
        gamma1, gamma2, scale1, scale2, shift1, shift2 = (condition.six + wide(self.ada_gss)).unbind(2)
        x = torch.addcmul(x, gamma1, self.sa(modulated(x, scale1, shift1), rotation, cache))
        x = x + self.ca(self.ca_norm(x), condition.text)
        return torch.addcmul(x, gamma2, self.ffn(modulated(x, scale2, shift2)))


class BlockChunk(nn.Module):
    """Some consecutive blocks, under the name that the published weights give them."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.module = nn.ModuleList(blocks)


class HeadNorm(nn.Module):
    """The layer norm before the head, scaled and shifted by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = FromCondition(width, 2)

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        scale, shift = self.ada_lin(start).unbind(2)
        return modulated(x, scale, shift)


class Infinity(nn.Module):
    """A text-conditional Infinity transformer.

    Args:
        config: its sizes.
        vae: turns bits into images; needed by `generate` only. It is no part of this module: neither the state dict nor
            `.to()` see it.
        canvas: its default aspect ratio and size.

    Attributes:
        canvas: as given; may be assigned.
        new_cache: makes the cache of one generation from its schedule; assign another one to an instance to change how
            it keeps its keys and values.
    """

    generate = generate

    def __init__(self, config: InfinityConfig, vae: BSQVAE | None = None, *, canvas: Canvas | None = None) -> None:
        super().__init__()
        self.config = config
        self.canvas = canvas or Canvas()
        if vae is not None:
            check_pair(config, vae)
        self._vae = (vae,)  # in a tuple, where nn.Module does not look
        self.new_cache: Callable[[ScaleSchedule], AttentionCache] = ConcatCache
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
        init_weights(self)

    @property
    def vae(self) -> BSQVAE:
        """The VAE given to the constructor; InputError if there was none."""
        if self._vae[0] is None:
            raise InputError("this Infinity has no VAE, so it generates no images; build it with Infinity(config, vae)")
        return self._vae[0]

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

    def blocks_to(self, dtype: torch.dtype) -> Infinity:
        """Puts blocks and text projections into this dtype, in place, and leaves the rest as it is.

        The published runs do the same in bfloat16: embeddings, shared condition and head stay in float32. ``.to(dtype)``
        is there for those who want every weight in one.
        """
        for part in (self.block_chunks, self.text_proj_for_ca, self.text_proj_for_sos):
            part.to(dtype)
        return self

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
        if not isinstance(drop, Tensor):
            drop = torch.rand(len(text), generator=generator) < drop
        dropped = drop.to(text.features.device)[text.prompt_of]
        return text.with_features(torch.where(dropped[:, None], self.without_prompt(text).features, text.features))


def levels_of(schedule: ScaleSchedule, device: torch.device) -> Tensor:
    """(L,) which scale every token belongs to."""
    tokens = torch.tensor(schedule.tokens)
    return torch.arange(len(tokens)).repeat_interleave(tokens).to(device)


def check_text(text: PackedText, config: InfinityConfig) -> None:
    """Raises InputError unless the prompts are as wide, and no longer, than the transformer was built for."""
    if text.features.shape[1:] != (config.text_channels,):
        raise InputError(
            f"this Infinity reads text features of {config.text_channels} channels; got {tuple(text.features.shape)}: "
            "another text encoder made them"
        )
    if max(text.lens) > config.text_maxlen:
        raise InputError(
            f"this Infinity reads prompts of at most {config.text_maxlen} text tokens; got one of {max(text.lens)}"
        )


def check_inputs(x: Tensor, batch: int, canvas: Canvas, config: InfinityConfig) -> None:
    """Raises InputError unless x is what teacher forcing reads on this canvas."""
    wanted = (batch, canvas.schedule.total - 1, config.token_bits)
    if tuple(x.shape) != wanted:
        raise InputError(f"Infinity wants inputs of {wanted} for {batch} images of {canvas}; got {tuple(x.shape)}")


def check_pair(config: InfinityConfig, vae: BSQVAE) -> None:
    """Raises InputError if the bits of the VAE are not those of the transformer."""
    if vae.config.bits != config.bits:
        raise InputError(f"Infinity wants a VAE of {config.bits} bits, got one of {vae.config.bits}")
