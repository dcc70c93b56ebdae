"""Checks what the cache holds under a policy: the planned tokens, unchanged, in their places."""

from __future__ import annotations

import torch
from attrs import evolve
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.encoded import KINDS, Kind
from scalekv_core.contracts.strategies import CacheCodec
from scalekv_core.testing.cases import ImageCase
from scalekv_core.testing.checks.policies import Make
from scalekv_core.testing.common import (
    NotApplicable,
    made_on_few,
    only_if,
    rounding,
    same_bits,
)
from scalekv_core.testing.images import Image, Seen

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 4e-3}
"""How far attention in this dtype may be from attention in float64, as a share of the largest value."""


@made_on_few(1, real_sizes=2)
def check_holds_what_was_planned(make: Make, case: ImageCase) -> None:
    """After every scale every head holds the planned tokens, within its capacity, and resident bytes are planned bytes."""
    image = Image.of(make(), case)
    plan, cache = image.planned.plan, image.cache()
    for scale in range(len(plan.schedule)):
        image.generate_scale(cache, scale)
        held = [cache.held_tokens(layer) for layer in range(plan.layers)]
        assert plan.held[scale].tolist() == held, (
            f"after scale {scale} it holds {held}; planned {plan.held[scale].tolist()}"
        )
        assert (plan.capacity[scale] >= plan.held[scale]).all()
        planned, resident = image.planned.footprint.planned[scale], cache.resident_bytes()
        assert planned == resident, f"after scale {scale} {planned} bytes are planned and {resident} are resident"


@only_if(lambda policy: policy.merger.drops, "its merger folds")
def check_kept_tokens_are_the_originals(make: Make, case: ImageCase) -> None:
    """Every kept key and value is that of its position, bit by bit, or within the codec's stated error."""
    image, seen = Image.of(make(), case), Seen()
    image.generate(image.cache(seen))
    for view in seen.views:
        for original, read, kind in zip(image.layers[view.layer][1:], (view.k, view.v), KINDS, strict=True):
            kept = ops.gather_tokens(original[:, list(view.heads)], view.positions.long())
            bound = stated_bound(image.planned.policy.codec, original, case.maps.tokens, kind)[:, list(view.heads)]
            assert as_near_as(ops.gather_tokens(bound, view.positions.long()), kept, read), (
                f"layer {view.layer}, scale {view.scale}: a {kind} is not that of its position"
            )


def stated_bound(codec: CacheCodec, whole: Tensor, tokens: tuple[int, ...], kind: Kind) -> Tensor:
    """(B, H, total, D) the error that the codec allows itself where the maps are encoded one like the other."""
    stored, bounds = None, []
    for part in whole.split(tokens, dim=2):
        fresh = codec.encode(part, kind, like=stored)
        bounds.append(codec.error_bound(fresh, kind).float().expand(part.shape))
        stored = fresh if stored is None else stored.join(fresh)
    return torch.cat(bounds, dim=2)


def as_near_as(bound: Tensor, original: Tensor, read: Tensor) -> bool:
    """Bit by bit under an exact codec; otherwise within the bound."""
    if not bool(bound.any()):
        return same_bits(original, read)
    return bool(((read.float() - original.float()).abs() <= bound + rounding(original)).all())


def check_positions_are_true(make: Make, case: ImageCase) -> None:
    """Positions travel with their tokens: ascending, each once, of maps that were generated, the current map at the end."""
    image, seen = Image.of(make(), case), Seen()
    image.generate(image.cache(seen))
    for view in seen.views:
        where = f"layer {view.layer}, scale {view.scale}"
        assert bool((view.positions.diff(dim=-1) > 0).all()), f"{where}: positions do not ascend"
        start, stop = case.maps.history[view.scale], case.maps.seen[view.scale]
        current = torch.arange(start, stop, dtype=view.positions.dtype, device=view.positions.device)
        assert bool((view.positions[:, :, view.history :] == current).all()), f"{where}: the map is not seen whole"


@only_if(lambda policy: not policy.merger.drops and policy.merger.conserves, "its merger gives tokens up")
def check_counts_add_up(make: Make, case: ImageCase) -> None:
    """With folding the counts add up to all tokens seen, at every scale, in every row and head."""
    image, seen = Image.of(make(), case), Seen()
    image.generate(image.cache(seen))
    for view in seen.views:
        held_before = image.planned.plan.held[: view.scale, view.layer, list(view.heads)]
        if view.counts is None or not (held_before > 0).all():
            continue
        total = view.counts.sum(dim=2)
        assert bool((total == case.maps.seen[view.scale]).all()), (
            f"layer {view.layer}, scale {view.scale}: counts add up to {total.flatten()[0].item():g}; "
            f"{case.maps.seen[view.scale]} tokens were seen"
        )


def check_attention_is_over_what_is_held(make: Make, case: ImageCase) -> None:
    """Every map attends to exactly the tokens that are held and to the whole of itself, those folded counted."""
    if case.content in ("huge", "denormal"):
        raise NotApplicable("rounding decides")
    image, seen = Image.of(make(), case), Seen()
    outputs = image.generate(image.cache(seen))
    for view in seen.views:
        out = outputs[view.scale * len(image.layers) + view.layer][:, list(view.heads)]
        expected = image.plain_attention(view)
        worst = (out.double() - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        assert worst <= ROUNDING[out.dtype], f"layer {view.layer}, scale {view.scale}: attention is off by {worst:.2g}"


def check_the_last_map_is_not_stored(make: Make, case: ImageCase) -> None:
    """After the last scale nothing is held: no later scale attends to it."""
    image = Image.of(make(), case)
    cache = image.cache()
    image.generate(cache)
    held = [tuple(tensor.shape) for tensor in cache.tensors()]
    assert not held, f"after the last scale it still holds tensors of shapes {held}"
    assert cache.complete, "not every layer has seen every scale"


def check_outputs_are_numbers(make: Make, case: ImageCase) -> None:
    """No output is nan or inf as long as every dot product is finite, however alike or extreme the tokens are."""
    for content in (case.content, "zero", "huge"):
        image = Image.of(make(), evolve(case, content=content))
        for out in image.generate(image.cache()):
            assert bool(out.isfinite().all()), f"an output of attention over {content} tokens is nan or inf"
