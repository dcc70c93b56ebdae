"""Generation with Infinity, scale by scale.

The loop is apart from the transformer because it is what a study changes: which bits go in (its own or forced ones), with
which noise, and what is written down on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from scalekv_adapters.infinity.bits import add_bits, on_grid, to_bits, to_tokens
from scalekv_adapters.infinity.guidance import Guidance, mixed, per_scale
from scalekv_adapters.infinity.inputs import check_text
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.rotation import Rotation
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.sampling import choose, filter_logits, image_generators
from scalekv_adapters.steps import collect
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.errors import InputError
from scalekv_core.models.image_model import Generation
from scalekv_core.models.requests import Seeds
from scalekv_core.models.sampling import Sampling
from scalekv_core.session.tracing import untraced

if TYPE_CHECKING:
    from scalekv_adapters.infinity.config import InfinityConfig
    from scalekv_adapters.infinity.transformer import Infinity


@attrs.frozen(eq=False, kw_only=True)
class Step:
    """What happened at one scale.

    Attributes:
        scale: which one, from 0.
        logits: (B, n, 2d') float32 after guidance, before temperature and filters.
        choices: (B, n, d') bool, the bits that the model chose.
        tokens: (B, n, d') those that went into the loop; not the choices where they were forced.
        total: (B, d, H, W) the sum of the codes after this scale; `vae.decode(total)` shows it.
    """

    scale: int
    logits: Tensor
    choices: Tensor
    tokens: Tensor
    total: Tensor


@attrs.frozen(kw_only=True)
class BitSampling:
    """How bits are sampled from their pairs of logits.

    Attributes:
        temperatures: per scale; divide the logits.
        top_k, top_p: filters over the two values of a bit; 0 lets both compete.
    """

    temperatures: tuple[float, ...]
    top_k: int
    top_p: float

    @classmethod
    def of(cls, *, temperature: float | Sequence[float], top_k: int, top_p: float, scales: int) -> BitSampling:
        """For so many scales; InputError if a value is out of its range."""
        Sampling(top_k=top_k, top_p=top_p)
        temperatures = per_scale("temperature", temperature, scales)
        if wrong := [t for t in temperatures if not 0 < t < inf]:
            raise InputError(f"Infinity wants temperatures above 0; got {wrong[0]}")
        return cls(temperatures=temperatures, top_k=top_k, top_p=top_p)

    def choose(self, logits: Tensor, scale: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        """Bits (B, n, d') bool of logits (B, n, 2d')."""
        pairs = (logits / self.temperatures[scale]).flatten(1).unflatten(1, (-1, 2))  # (B, n d', 2)
        chosen = choose(filter_logits(pairs, top_k=self.top_k, top_p=self.top_p), generators)
        return chosen.bool().view(*logits.shape[:2], -1)


@torch.no_grad()
def generate(
    model: Infinity,
    text: PackedText,
    *,
    seeds: Seeds | None,
    guidance: float | Sequence[float] = 3.0,
    guidance_at: Sequence[int] = (0,),
    top_k: int = 0,
    top_p: float = 0.0,
    temperature: float | Sequence[float] = 1.0,
    canvas: Canvas | None = None,
    forced: Sequence[Tensor] = (),
    on_scale: Callable[[Step], None] | None = None,
    keep_logits: bool = False,
) -> Generation:
    """Generates one image per prompt.

    Args:
        model: an Infinity with its VAE.
        text: the features of B prompts.
        seeds: one per image, or None for the likelier value of every bit. An image depends on its prompt and its seed,
            not on the images beside it.
        guidance: strength g of classifier-free guidance, g * conditioned + (1 - g) * unconditioned, for all scales or one
            per scale. Where it is 1 everywhere (or 0), B rows run instead of 2B.
        guidance_at: where it is applied: 0 is on the logits, -n on the output of the n-th block before the end.
        top_k, top_p: filters over the two values of each bit; top_p drops a value of probability 1 - top_p or less.
        temperature: divides the logits before the filters, for all scales or one per scale.
        canvas: aspect ratio and size; the model's own by default.
        forced: bits (B, n, d') bool that replace the model's choices at the first len(forced) scales; the noise of later
            scales stays what it was.
        on_scale: called after every scale.
        keep_logits: also return the logits, B * L * 2d' floats.

    Raises:
        InputError: a prompt, seed, option or forced map that does not fit.
        NonFiniteError: it computed NaN or infinity.
    """
    canvas = canvas or model.canvas
    scales = len(canvas.schedule)
    guided = Guidance.of(guidance, guidance_at, scales=scales, depth=model.config.depth)
    sampling = BitSampling.of(temperature=temperature, top_k=top_k, top_p=top_p, scales=scales)
    text = untraced(check_text_here)(text, model)
    forced = check_forced(forced, len(text), canvas, model.config)
    generators = image_generators(seeds, len(text))
    cache = model.new_cache(canvas.schedule)
    return untraced(collect)(  # the loop is Python; compile the blocks
        draw(model, text, canvas, cache, guided, sampling, generators, forced),
        cache,
        model="Infinity",
        pictures=lambda last: model.vae.pictures(last.total),
        on_scale=on_scale,
        keep_logits=keep_logits,
    )


def draw(
    model: Infinity,
    text: PackedText,
    canvas: Canvas,
    cache: AttentionCache,
    guidance: Guidance,
    sampling: BitSampling,
    generators: Sequence[torch.Generator] | None,
    forced: Sequence[Tensor],
) -> Iterator[Step]:
    """Yields one step per scale. The arguments are checked ones; see `generate`."""
    config, schedule, grids = model.config, canvas.schedule, canvas.grids(model.config.patch)
    condition = model.condition(text.followed_by(model.without_prompt(text)) if guidance.used else text)
    rotation = Rotation.of(canvas, config.head_dim, condition.start.device)
    h = model.embed_start(condition)
    total = model.vae.empty_sum(len(text), grids[-1])
    for scale in range(len(schedule)):
        here = rotation.part(schedule.history[scale], schedule.seen[scale])
        h = model.run_blocks(h, condition, here, cache, partial(guidance.after_block, scale=scale))
        logits = guided_logits(model, h, condition.start, guidance, scale)
        choices = sampling.choose(logits, scale, generators)
        tokens = forced[scale].to(choices.device) if scale < len(forced) else choices
        total = add_bits(total, to_bits(tokens, grids[scale], config.patch))
        yield Step(scale=scale, logits=logits, choices=choices, tokens=tokens, total=total)
        if scale < len(schedule) - 1:
            x = to_tokens(on_grid(total, grids[scale + 1]), config.patch)  # (B, n, d'), the same for both halves
            h = model.embed(x, scale + 1).repeat(len(condition.start) // len(text), 1, 1)


def guided_logits(model: Infinity, h: Tensor, start: Tensor, guidance: Guidance, scale: int) -> Tensor:
    """Logits (B, n, 2d') of hidden states of B rows, or of 2B, conditioned ones first."""
    if not guidance.used:
        return model.logits(h, start)
    if guidance.conditioned(scale):
        rows = len(start) // 2
        return model.logits(h[:rows], start[:rows])
    return mixed(model.logits(h, start), guidance.strengths[scale])


def check_text_here(text: PackedText, model: Infinity) -> PackedText:
    """The text on the model's device; InputError if it does not fit the model, or the VAE is elsewhere."""
    check_text(text, model.config)
    device, other = model.head.weight.device, model.vae.empty_sum(1, (1, 1)).device
    if device != other:
        raise InputError(f"the Infinity is on {device} and its VAE on {other}; move one of them with .to()")
    return text.to(device)


def check_forced(forced: Sequence[Tensor], batch: int, canvas: Canvas, config: InfinityConfig) -> Sequence[Tensor]:
    """The same bits; InputError if there are too many maps, or one has the wrong shape or type."""
    counts = canvas.schedule.tokens
    if len(forced) > len(counts):
        raise InputError(f"generate wants forced bits of at most {len(counts)} scales, got {len(forced)}")
    for scale, (tokens, count) in enumerate(zip(forced, counts, strict=False)):
        wanted = (batch, count, config.token_bits)
        if tuple(tokens.shape) != wanted or tokens.dtype != torch.bool:
            got = f"{tokens.dtype} {tuple(tokens.shape)}"
            raise InputError(f"generate wants forced bits of scale {scale} to be bool {wanted}, got {got}")
    return forced
