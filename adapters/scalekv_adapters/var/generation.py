"""Generation with VAR, scale by scale.

The loop is apart from the transformer because it is what a study changes: which tokens go in (its own or forced ones),
with which noise, and what is written down on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from scalekv_adapters.sampling import choose, filter_logits, image_generators
from scalekv_adapters.steps import collect
from scalekv_adapters.var.config import check_trained
from scalekv_adapters.var.guidance import guide
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.errors import InputError
from scalekv_core.models.image_model import Generation
from scalekv_core.models.requests import Seeds
from scalekv_core.models.sampling import Sampling
from scalekv_core.session.tracing import untraced

if TYPE_CHECKING:
    from scalekv_adapters.var.config import VARConfig
    from scalekv_adapters.var.transformer import VAR


@attrs.frozen(eq=False, kw_only=True)
class Step:
    """What happened at one scale.

    Attributes:
        scale: which one, from 0.
        logits: (B, n, V) float32 after guidance, before temperature and filters.
        choices: (B, n) the tokens that the model chose.
        tokens: (B, n) those that went into the loop; not the choices where they were forced.
        f_hat: (B, Cvae, P, P) the VQVAE's sum after this scale; `vqvae.decode(f_hat)` shows it.
    """

    scale: int
    logits: Tensor
    choices: Tensor
    tokens: Tensor
    f_hat: Tensor


@torch.no_grad()
def generate(
    model: VAR,
    labels: Tensor | Sequence[int],
    *,
    seeds: Seeds | None,
    guidance: float = 4.0,
    top_k: int = 0,
    top_p: float = 0.0,
    temperature: float = 1.0,
    forced: Sequence[Tensor] = (),
    on_scale: Callable[[Step], None] | None = None,
    keep_logits: bool = False,
) -> Generation:
    """Generates one image per label.

    Args:
        model: a VAR with its VQVAE.
        labels: (B,) classes.
        seeds: one per image, or None for the likeliest token everywhere. An image depends on its label and its seed,
            not on the images beside it.
        guidance: strength of classifier-free guidance at the last scale; it grows from 0 at the first. 0 runs B rows
            instead of 2B.
        top_k, top_p: keep only so many, or so much probability, of the likeliest tokens; 0 keeps all.
        temperature: divides the logits before the filters.
        forced: tokens (B, n) that replace the model's choices at the first len(forced) scales; the noise of later
            scales stays what it was.
        on_scale: called after every scale.
        keep_logits: also return the logits, B * L * V floats.

    Raises:
        InputError: a label, seed, option or forced map that does not fit; a schedule that it was not trained for.
        NonFiniteError: it computed NaN or infinity.
    """
    sampling = Sampling(guidance=guidance, top_k=top_k, top_p=top_p, temperature=temperature, greedy=seeds is None)
    check_trained(model.config.schedule, model.lvl_1L)
    labels = check_labels(labels, model)
    forced = check_forced(forced, len(labels), model.config)
    generators = image_generators(seeds, len(labels))
    cache = model.new_cache(model.config.schedule)
    return untraced(collect)(  # the loop is Python; compile the blocks
        draw(model, labels, cache, sampling, generators, forced),
        cache,
        model="VAR",
        pictures=lambda last: model.vqvae.pictures(last.f_hat),
        on_scale=on_scale,
        keep_logits=keep_logits,
    )


def draw(
    model: VAR,
    labels: Tensor,
    cache: AttentionCache,
    sampling: Sampling,
    generators: Sequence[torch.Generator] | None,
    forced: Sequence[Tensor],
) -> Iterator[Step]:
    """Yields one step per scale. The arguments are checked ones; see `generate`."""
    vqvae, schedule = model.vqvae, model.config.schedule
    scales, (guidance,) = len(schedule), sampling.strengths
    d = model.class_emb(with_unconditioned(labels, model.config) if guidance else labels)  # (rows, C)
    h = model.embed(d, None, 0)
    f_hat = vqvae.empty_map(len(labels))
    for scale in range(scales):
        logits = model.run_blocks(h, d, cache)
        logits = guide(logits, guidance=guidance, scale=scale, scales=scales) if guidance else logits
        filtered = filter_logits(logits / sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
        choices = choose(filtered, generators)
        tokens = forced[scale].to(choices.device) if scale < len(forced) else choices
        f_hat = vqvae.add_scale(f_hat, tokens, scale)
        yield Step(scale=scale, logits=logits, choices=choices, tokens=tokens, f_hat=f_hat)
        if scale < scales - 1:
            x = vqvae.next_input(f_hat, scale)  # (B, n, Cvae), the same for both halves
            h = model.embed(d, x.repeat(len(d) // len(x), 1, 1), start=schedule.history[scale + 1])


def with_unconditioned(labels: Tensor, config: VARConfig) -> Tensor:
    """Labels (2B,): those given, then B times "no class"."""
    return torch.cat((labels, torch.full_like(labels, config.num_classes)))


def check_labels(labels: Tensor | Sequence[int], model: VAR) -> Tensor:
    """Labels (B,) int64 on the model's device; InputError if one is no class of the model, or none is given."""
    checked = torch.as_tensor(labels)
    classes = model.config.num_classes
    if checked.dim() != 1 or not len(checked) or checked.is_floating_point():
        got = f"{checked.dtype} {tuple(checked.shape)}"
        raise InputError(f"generate wants labels (B,), one or more integers; got {got}")
    if checked.min() < 0 or checked.max() >= classes:
        raise InputError(f"generate wants labels from 0 to {classes - 1}, got {checked.tolist()}")
    device, other = model.head.weight.device, model.vqvae.quantize.embedding.weight.device
    if device != other:
        raise InputError(f"the VAR is on {device} and its VQVAE on {other}; move one of them with .to()")
    return checked.to(device, torch.int64)


def check_forced(forced: Sequence[Tensor], batch: int, config: VARConfig) -> Sequence[Tensor]:
    """The same tokens; InputError if there are too many maps, or one has the wrong shape, type or range."""
    sides = config.patch_sides
    if len(forced) > len(sides):
        raise InputError(f"generate wants forced tokens of at most {len(sides)} scales, got {len(forced)}")
    for scale, (tokens, side) in enumerate(zip(forced, sides, strict=False)):
        wanted = (batch, side * side)
        if tuple(tokens.shape) != wanted or tokens.is_floating_point():
            got = f"{tokens.dtype} {tuple(tokens.shape)}"
            raise InputError(f"generate wants forced tokens of scale {scale} to be integers {wanted}, got {got}")
        if tokens.min() < 0 or tokens.max() >= config.codes:
            got = f"{tokens.min()} to {tokens.max()}"
            raise InputError(f"generate wants forced tokens from 0 to {config.codes - 1}, got {got} at scale {scale}")
    return forced
