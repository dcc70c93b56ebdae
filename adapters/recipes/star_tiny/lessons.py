"""What the transformer of star-tiny learns: to name the bits of every pass, reading sums in which bits were flipped.

A pass sees the text, itself, and the last map of the pyramid before; so passes are learnt side by side, and those that no other
one reads need not all be there in one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from recipes.star_tiny.labels import Labels, label
from scalekv_adapters.infinitystar.generation import InfinityStar
from scalekv_adapters.infinitystar.pyramids import Pass, Pyramids
from scalekv_adapters.infinitystar.rotation import pass_places, text_places
from scalekv_adapters.infinitystar.tiny.network import TinyStar
from scalekv_adapters.infinitystar.tokenizer_bits import pooled, to_tokens

__all__ = ["Lesson", "PassByPass", "chosen_passes", "lesson_loss", "pass_losses"]


@frozen(kw_only=True)
class Lesson:
    """What one step of the transformer is made of.

    Attributes:
        clips: how many.
        weights: of the passes of every scale; without them the details, which have most tokens, would count as the layout.
        flips: the largest share of bits that are flipped, of a clip; the mean is a third of it.
        drop: share of captions that say nothing, so that guidance can be learnt.
    """

    clips: int = 8
    weights: tuple[float, ...] = (1, 2, 3, 4)
    flips: float = 0.3
    drop: float = 0.1


class PassByPass:
    """Teacher forcing without a mask: each part of the sequence attends to the parts that it sees, itself among them.

    Args:
        sizes: tokens of every part.
        sees: of every part, which ones it attends to.
    """

    def __init__(self, sizes: Sequence[int], sees: Sequence[Sequence[int]]) -> None:
        self.sizes, self.sees = list(sizes), sees

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        """(B, g H, n, D) what queries (B, g H, n, D) find in keys and values (B, H, n, D)."""
        group = q.shape[1] // k.shape[1]
        queries, keys, values = (x.split(self.sizes, dim=2) for x in (q, *(_spread(x, group) for x in (k, v))))
        outs = []
        for part, seen in zip(queries, self.sees, strict=True):
            there, what = (torch.cat([x[i] for i in seen], dim=2) for x in (keys, values))
            outs.append(F.scaled_dot_product_attention(part, there, what, scale=softmax_scale))
        return torch.cat(outs, dim=2)

    def close(self) -> None:
        """Has nothing to forget."""


def _spread(x: Tensor, group: int) -> Tensor:
    return x.repeat_interleave(group, dim=1)


def chosen_passes(pyramids: Pyramids, source: torch.Generator) -> list[Pass]:
    """The passes of one step, in order: of one pyramid after the first all passes of small maps and one of the last map; before it
    what it depends on; and before the second pyramid all of the first.

    The stored pass of the last map is one of the two that a pyramid can have here, so that every pass is learnt.
    """
    goal = int(torch.randint(1, len(pyramids.frames), (), generator=source))
    scales = len(pyramids.grids) - 1
    chosen = [each for each in pyramids.passes if _is_context(each, goal, scales)]
    details = [each for each in pyramids.passes if each.pyramid == goal and each.scale == scales]
    return [*chosen, details[int(torch.randint(len(details), (), generator=source))]]


def _is_context(each: Pass, goal: int, last_scale: int) -> bool:
    if each.pyramid == goal:
        return each.scale < last_scale
    whole = each.pyramid == 0 and goal == 1
    return each.pyramid < goal and (whole or (each.scale == last_scale and each.last))


def pass_losses(
    model: InfinityStar, text: Tensor, labels: Mapping[int, Labels], chosen: Sequence[Pass], pyramids: Pyramids
) -> Tensor:
    """Cross entropy (passes,), in nats a bit, of each of these passes.

    Args:
        model: in training mode.
        text: (B, T, text width) features.
        labels: by pyramid.
        chosen: in order; of every pyramid but the last one the stored pass of the last map is among them.
        pyramids: that they are of.
    """
    window, whole = model.config.text_window, pyramids.whole
    parts, where = [model.embed_text(text)], [text_places(text.shape[1])]
    sees, wanted = [[0]], []
    stored: dict[int, int] = {}
    for index, each in enumerate(chosen, start=1):
        of_pyramid = labels[each.pyramid]
        nth = each.number - next(one.number for one in pyramids.passes if one.pyramid == each.pyramid)
        parts.append(model.embed_map(pooled(of_pyramid.sums[nth], each.grid)))
        where.append(pass_places(each, window, whole))
        sees.append([0, *([stored[each.pyramid - 1]] if each.pyramid else []), index])
        wanted.append(to_tokens(of_pyramid.bits[nth]).long())
        if each.last and each.scale == len(pyramids.grids) - 1:
            stored[each.pyramid] = index
    sizes = [part.shape[1] for part in parts]
    hidden = model.run_blocks(torch.cat(parts, dim=1), model.rotation(torch.cat(where)), PassByPass(sizes, sees))
    losses = [
        F.cross_entropy(model.logits_of(part, each.bits).flatten(0, 1).unflatten(1, (-1, 2)).mT, bits.flatten(0, 1))
        for part, each, bits in zip(hidden.split(sizes, dim=1)[1:], chosen, wanted, strict=True)
    ]
    return torch.stack(losses)


def lesson_loss(
    model: TinyStar, captions: Sequence[str], features: Tensor, how: Lesson, source: torch.Generator
) -> Tensor:
    """The loss of some clips, a scalar: nats a bit, averaged over passes by the weights of their scales.

    Args:
        model: in training mode.
        captions: of the clips.
        features: (B, C, t, h, w) of the clips.
        how: what the step is made of.
        source: all randomness.
    """
    star, pyramids = model.transformer, model.transformer.pyramids
    chosen = chosen_passes(pyramids, source)
    rates = how.flips * torch.rand(len(features), 1, 1, 1, 1, generator=source).square()
    labels = {}
    for pyramid in dict.fromkeys(each.pyramid for each in chosen):
        passes = [each for each in pyramids.passes if each.pyramid == pyramid]
        first = passes[0].first_frame
        labels[pyramid] = label(features[:, :, first : first + passes[0].grid[0]], passes, rates, source)
    text = model.text(captions)
    nothing = torch.rand(len(text), 1, 1, generator=source) < how.drop
    text = torch.where(nothing, star.cfg_uncond[: text.shape[1]], text)
    losses = pass_losses(star, text, labels, chosen, pyramids)
    weights = torch.tensor([how.weights[each.scale] for each in chosen], dtype=losses.dtype)
    return losses @ weights / weights.sum()
