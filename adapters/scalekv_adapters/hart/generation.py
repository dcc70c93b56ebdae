"""HART as it generates: the transformer with its tokenizer, and what is computed at each scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scalekv_adapters.generation import ImageBatch, Step, generate
from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.context import Context
from scalekv_adapters.hart.diffusion import diffused
from scalekv_adapters.hart.rotation import Rotation, map_angles, text_angles
from scalekv_adapters.hart.transformer import Condition, HARTTransformer
from scalekv_adapters.inputs import check_forced_codes, check_same_device
from scalekv_adapters.sampling import choose, filter_logits
from scalekv_adapters.teacher_forcing import MaskedAttention, future_mask
from scalekv_adapters.vqvae import VQVAE
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.cache.tracing import untraced
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.errors import InputError
from scalekv_core.models.image_model import Generation
from scalekv_core.models.requests import Seeds
from scalekv_core.models.sampling import Sampling
from scalekv_core.shapes.schedule import ScaleSchedule

FEWER_FROM = 7
"""From this scale on, half as many codes are sampled from: 300 instead of 600 as published."""


class HART(HARTTransformer):
    """A HART that generates.

    Args:
        config: its sizes.
        tokenizer: turns codes into images; needed by `generate` only, and no part of this module.

    Attributes:
        new_cache: makes the cache of one generation from its schedule; assign another one to an instance to change how
            it keeps its keys and values.
    """

    def __init__(self, config: HARTConfig, tokenizer: VQVAE | None = None) -> None:
        super().__init__(config)
        if tokenizer is not None and _shared(tokenizer) != (config.codes, config.code_width, config.patch_sides):
            raise InputError(
                f"HART needs a tokenizer of (codes, code width, patch sides) "
                f"{(config.codes, config.code_width, config.patch_sides)}, got one of {_shared(tokenizer)}"
            )
        self._tokenizer = (tokenizer,)  # in a tuple, where nn.Module does not look
        self.new_cache: Callable[[ScaleSchedule], AttentionCache] = ConcatCache

    @property
    def tokenizer(self) -> VQVAE:
        """The tokenizer given to the constructor; InputError if there was none."""
        if self._tokenizer[0] is None:
            raise InputError(
                "this HART has no tokenizer, so it generates no images; build it with HART(config, tokenizer)"
            )
        return self._tokenizer[0]

    @torch.no_grad()
    def generate(
        self,
        context: Context,
        *,
        seeds: Seeds | None,
        guidance: float = 4.5,
        top_k: int = 600,
        top_p: float = 0.0,
        temperature: float = 1.0,
        forced: Sequence[Tensor] = (),
        noise: Tensor | None = None,
        on_scale: Callable[[Step], None] | None = None,
        keep_logits: bool = False,
    ) -> Generation:
        """Generates one image per prompt.

        Args:
            context: text of the prompts.
            seeds: one per image, or None for the likeliest codes. An image depends on its prompt and its seed alone.
            guidance: strength of classifier-free guidance at the last scale but one; it grows from 0 at the first.
            top_k: codes that are sampled from, half as many from the eighth map on; 0 is all.
            top_p, temperature: as usual.
            forced: tokens (B, n) that replace the model's choices at the first len(forced) scales.
            noise: (steps + 1, B n, code width) of the residual diffusion, in place of that of the seeds.
            on_scale: called after every scale.
            keep_logits: also return the logits.

        Raises:
            InputError: a text, seed, option or forced map that does not fit.
            NonFiniteError: it computed NaN or infinity.
        """
        sampling = Sampling(guidance=guidance, top_k=top_k, top_p=top_p, temperature=temperature, greedy=seeds is None)
        batch = self.batch(context, sampling)
        batch.noise = noise
        return untraced(generate)(batch, seeds=seeds, forced=forced, on_scale=on_scale, keep_logits=keep_logits)

    def teacher_forced(self, context: Context, x: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T + n, C) and logits (B, 1 + n, codes) of all maps at once. Differentiable.

        Args:
            context: text of the prompts; one that says nothing is zeros of which one token is real.
            x: (B, n, code width) what is read at all scales but the first, as the tokenizer's `teacher_inputs` makes it.
        """
        config, schedule = self.config, self.config.schedule
        width, sides, device = config.width // config.heads, config.patch_sides, self.head.weight.device
        text = self.embed_text(context.features.to(device))
        levels = torch.tensor([k for k, n in enumerate(schedule.tokens) for _ in range(n)])
        numbers = torch.stack([self.level(k) for k in range(len(schedule))])[levels.to(device)]
        tokens = torch.cat((text, self.word_embed(x.to(text.dtype))), dim=1) + numbers
        angles = [text_angles(context.real, width)]
        angles += [map_angles(side, sides[-1], context.last, width) for side in sides[1:]]
        rotation = Rotation.of(torch.cat(angles, dim=1).to(device), text.dtype)
        condition = Condition.of(text, context.real.to(device))
        mask = MaskedAttention(future_mask(levels).to(device, text.dtype))
        hidden = self.run_blocks(tokens, condition, rotation, mask)
        return hidden, self.logits_of(hidden[:, config.context_tokens - 1 :], condition)

    def batch(self, context: Context, sampling: Sampling) -> HARTImages:
        """One image per prompt, not begun yet; InputError where the text does not fit, or the tokenizer is elsewhere."""
        wanted, device = (self.config.context_tokens, self.config.context_width), self.head.weight.device
        if tuple(context.features.shape[1:]) != wanted:
            raise InputError(
                f"this HART reads text of (tokens, channels) {wanted}; got {tuple(context.features.shape[1:])}"
            )
        check_same_device("HART", device, "tokenizer", self.tokenizer.quantize.embedding.weight.device)
        return HARTImages(self, context.to(device), sampling)


class HARTImages(ImageBatch):
    """Images of B prompts while they are generated; with guidance the rows of the batch are 2 B, conditioned ones first.

    Attributes:
        noise: (steps + 1, B n, code width) of the residual diffusion; None takes it from the generators.
    """

    family = "HART"
    model: HART
    noise: Tensor | None = None

    def __init__(self, model: HART, context: Context, sampling: Sampling) -> None:
        self.model, self.sampling = model, sampling
        self.schedule, self.images = model.config.schedule, len(context.features)
        (self.guidance,) = sampling.strengths
        self.context = context.with_unconditional() if self.guidance else context
        self.text = model.embed_text(self.context.features)  # (rows, T, C)
        self.condition = Condition.of(self.text, self.context.real)
        self.total = model.tokenizer.empty_map(self.images)
        self.hidden = self.text

    @property
    def last(self) -> int:
        """The last scale."""
        return len(self.schedule) - 1

    def check_forced(self, forced: Sequence[Tensor]) -> None:
        check_forced_codes(forced, self.images, self.model.config.maps, self.model.config.codes)

    def logits(self, scale: int, cache: AttentionCache) -> Tensor:
        hidden = self.model.run_blocks(self._embedded(scale), self.condition, self._rotation(scale), cache)
        self.hidden = hidden if scale else hidden[:, -1:]  # the last text token predicts the first map
        logits = self.model.logits_of(self.hidden, self.condition)
        if not self.guidance:
            return logits
        conditioned, unconditioned = logits.chunk(2)
        t = self._strength(scale)
        return (1 + t) * conditioned - t * unconditioned

    def _strength(self, scale: int) -> float:
        """Guidance grows from scale to scale; the last map has that of the one before, as it was published."""
        return self.guidance * min(scale, self.last - 1) / self.last

    def _embedded(self, scale: int) -> Tensor:
        """(rows, n, C) what the first block reads."""
        if scale == 0:
            return self.text + self.model.level(0)
        x = self.model.tokenizer.next_input(self.total, scale - 1)  # (B, n, d), the same for both halves
        words: Tensor = self.model.word_embed(x.to(self.text.dtype))
        return words.repeat(len(self.text) // self.images, 1, 1) + self.model.level(scale)

    def _rotation(self, scale: int) -> Rotation:
        config, dtype = self.model.config, self.text.dtype
        width, sides = config.width // config.heads, config.patch_sides
        if scale == 0:
            return Rotation.of(text_angles(self.context.real, width), dtype)
        return Rotation.of(map_angles(sides[scale], sides[-1], self.context.last, width), dtype)

    def choose(self, logits: Tensor, scale: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        how = self.sampling
        top_k = -(-how.top_k // 2) if scale >= FEWER_FROM else how.top_k
        tokens = choose(filter_logits(logits / how.temperature, top_k=top_k, top_p=how.top_p), generators)
        if scale == self.last and self.noise is None:
            self.noise = self._drawn(generators)
        return tokens

    def _drawn(self, generators: Sequence[torch.Generator] | None) -> Tensor:
        """(steps + 1, B n, d) noise of each image's own generator; of seed 0 where there are none."""
        config = self.model.config
        generators = generators or [torch.Generator().manual_seed(0) for _ in range(self.images)]
        shape = (config.diffusion_steps + 1, self.schedule.tokens[-1], config.code_width)
        return torch.cat([torch.randn(shape, generator=g) for g in generators], dim=1)

    def with_map(self, tokens: Tensor, scale: int) -> Tensor:
        if scale < self.last:
            return self.model.tokenizer.add_scale(self.total, tokens, scale)
        codes: Tensor = self.model.tokenizer.quantize.embedding(tokens)  # (B, n, d)
        whole = codes + self._residual(codes)
        return self.total + whole.mT.unflatten(2, self.schedule.maps[-1][1:]).to(self.total.dtype)

    def _residual(self, codes: Tensor) -> Tensor:
        """(B, n, d) what the codes of the last map could not express."""
        noise = self.noise if self.noise is not None else self._drawn(None)
        both = codes.repeat(len(self.hidden) // self.images, 1, 1)
        condition = self.model.decoder_condition(self.hidden, both).flatten(0, 1)
        residual = diffused(
            self.model.diffloss.net,
            condition,
            list(noise.to(codes.device)),
            guidance=self._strength(self.last) if self.guidance else 0.0,
            steps=self.model.config.diffusion_steps,
        )
        return residual.view(codes.shape)

    def pictures(self, total: Tensor) -> Tensor:
        return self.model.tokenizer.pictures(total)


def _shared(tokenizer: VQVAE) -> tuple[int, int, tuple[int, ...]]:
    return tokenizer.config.codes, tokenizer.config.code_width, tokenizer.config.patch_sides
