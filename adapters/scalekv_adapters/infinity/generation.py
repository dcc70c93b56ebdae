"""Infinity as it generates: the transformer with its VAE, and what is computed at each scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from scalekv_adapters.generation import ImageBatch, Step, generate
from scalekv_adapters.infinity.bits import add_bits, on_grid, to_bits, to_tokens
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.guidance import Guidance, mixed
from scalekv_adapters.infinity.inputs import check_negative, check_pair, check_text
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.rotation import Rotation
from scalekv_adapters.infinity.sampling import BitSampling
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.transformer import InfinityTransformer
from scalekv_adapters.infinity.vae import BSQVAE
from scalekv_adapters.inputs import check_forced_bits, check_same_device
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.cache.tracing import untraced
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.errors import InputError
from scalekv_core.models.image_model import Generation
from scalekv_core.models.requests import Seeds
from scalekv_core.shapes.schedule import ScaleSchedule


class Infinity(InfinityTransformer):
    """A text-conditional Infinity.

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

    def __init__(self, config: InfinityConfig, vae: BSQVAE | None = None, *, canvas: Canvas | None = None) -> None:
        super().__init__(config, canvas=canvas)
        if vae is not None:
            check_pair(config, vae)
        self._vae = (vae,)  # in a tuple, where nn.Module does not look
        self.new_cache: Callable[[ScaleSchedule], AttentionCache] = ConcatCache

    @property
    def vae(self) -> BSQVAE:
        """The VAE given to the constructor; InputError if there was none."""
        if self._vae[0] is None:
            raise InputError("this Infinity has no VAE, so it generates no images; build it with Infinity(config, vae)")
        return self._vae[0]

    def blocks_to(self, dtype: torch.dtype) -> Infinity:
        """Puts blocks and text projections into this dtype, in place, and leaves the rest as it is.

        The published runs do the same in bfloat16: embeddings, shared condition and head stay in float32. ``.to(dtype)``
        is there for those who want every weight in one.
        """
        for part in (self.block_chunks, self.text_proj_for_ca, self.text_proj_for_sos):
            part.to(dtype)
        return self

    @torch.no_grad()
    def generate(
        self,
        text: PackedText,
        *,
        seeds: Seeds | None,
        guidance: float | Sequence[float] = 3.0,
        guidance_at: Sequence[int] = (0,),
        top_k: int = 0,
        top_p: float = 0.0,
        temperature: float | Sequence[float] = 1.0,
        negative: PackedText | None = None,
        canvas: Canvas | None = None,
        forced: Sequence[Tensor] = (),
        on_scale: Callable[[Step], None] | None = None,
        keep_logits: bool = False,
    ) -> Generation:
        """Generates one image per prompt.

        Args:
            text: the features of B prompts.
            seeds: one per image, or None for the likelier value of every bit. An image depends on its prompt and its seed,
                not on the images beside it.
            guidance: strength g of classifier-free guidance, g * conditioned + (1 - g) * unconditioned, for all scales or
                one per scale. Where it is 1 everywhere (or 0), B rows run instead of 2B.
            guidance_at: where it is applied: 0 is on the logits, -n on the output of the n-th block before the end.
            top_k, top_p: filters over the two values of each bit; top_p drops a value of probability 1 - top_p or less.
            temperature: divides the logits before the filters, for all scales or one per scale.
            negative: the features of B prompts that guidance leads away from, as in the published code: the unconditioned
                rows are told them. By default those are told that there is no prompt.
            canvas: aspect ratio and size; the model's own by default.
            forced: bits (B, n, d') bool that replace the model's choices at the first len(forced) scales; the noise of
                later scales stays what it was.
            on_scale: called after every scale.
            keep_logits: also return the logits, B * L * 2d' floats.

        Raises:
            InputError: a prompt, seed, option or forced map that does not fit.
            NonFiniteError: it computed NaN or infinity.
        """
        batch = untraced(self.batch)(
            text,
            canvas=canvas,
            guidance=guidance,
            guidance_at=guidance_at,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            negative=negative,
        )
        return untraced(generate)(  # the loop is Python; compile the blocks
            batch, seeds=seeds, forced=forced, on_scale=on_scale, keep_logits=keep_logits
        )

    def batch(
        self,
        text: PackedText,
        *,
        negative: PackedText | None = None,
        canvas: Canvas | None = None,
        guidance: float | Sequence[float],
        guidance_at: Sequence[int],
        top_k: int,
        top_p: float,
        temperature: float | Sequence[float],
    ) -> InfinityImages:
        """One image per prompt, not begun yet; the arguments are those of `generate`.

        Raises:
            InputError: a text or an option that does not fit, or a VAE elsewhere.
        """
        canvas = canvas or self.canvas
        scales, device = len(canvas.schedule), self.head.weight.device
        guided = Guidance.of(guidance, guidance_at, scales=scales, depth=self.config.depth)
        sampling = BitSampling.of(temperature=temperature, top_k=top_k, top_p=top_p, scales=scales)
        check_text(text, self.config)
        if negative is not None:
            check_negative(negative, text, self.config, guided=guided.used)
        check_same_device("Infinity", device, "VAE", self.vae.empty_sum(1, (1, 1)).device)
        return InfinityImages(
            self, text.to(device), None if negative is None else negative.to(device), canvas, guided, sampling
        )


class InfinityImages(ImageBatch):
    """Images of B prompts while they are generated; with guidance the batch has 2B rows, conditioned ones first."""

    family = "Infinity"
    model: Infinity

    def __init__(
        self,
        model: Infinity,
        text: PackedText,
        negative: PackedText | None,
        canvas: Canvas,
        guidance: Guidance,
        sampling: BitSampling,
    ) -> None:
        config = model.config
        self.model, self.guidance, self.sampling = model, guidance, sampling
        self.schedule, self.images, self.grids = canvas.schedule, len(text), canvas.grids(config.patch)
        against = model.without_prompt(text) if negative is None else negative  # what unconditioned rows are told
        self.condition = model.condition(text.followed_by(against) if guidance.used else text)
        self.rotation = Rotation.of(canvas, config.head_dim, self.condition.start.device)
        self.total = model.vae.empty_sum(self.images, self.grids[-1])

    def check_forced(self, forced: Sequence[Tensor]) -> None:
        check_forced_bits(forced, self.images, self.schedule, self.model.config.token_bits)

    def logits(self, scale: int, cache: AttentionCache) -> Tensor:
        here = self.rotation.part(self.schedule.history[scale], self.schedule.seen[scale])
        after_block = partial(self.guidance.after_block, scale=scale)
        return self._guided(
            self.model.run_blocks(self._embedded(scale), self.condition, here, cache, after_block), scale
        )

    def _embedded(self, scale: int) -> Tensor:
        """(rows, n, C) what the first block reads."""
        if scale == 0:
            return self.model.embed_start(self.condition)
        x = to_tokens(on_grid(self.total, self.grids[scale]), self.model.config.patch)  # the same for both halves
        return self.model.embed(x, scale).repeat(len(self.condition.start) // self.images, 1, 1)

    def _guided(self, h: Tensor, scale: int) -> Tensor:
        """Logits (B, n, 2d') of hidden states of B rows, or of 2B, conditioned ones first."""
        start = self.condition.start
        if not self.guidance.used:
            return self.model.logits(h, start)
        if self.guidance.conditioned(scale):
            return self.model.logits(h[: self.images], start[: self.images])
        return mixed(self.model.logits(h, start), self.guidance.strengths[scale])

    def choose(self, logits: Tensor, scale: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        return self.sampling.choose(logits, scale, generators)

    def with_map(self, tokens: Tensor, scale: int) -> Tensor:
        return add_bits(self.total, to_bits(tokens, self.grids[scale], self.model.config.patch))

    def pictures(self, total: Tensor) -> Tensor:
        return self.model.vae.pictures(total)
