"""Cases for selectors and mergers: what they see of one group of heads after a scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from attrs.validators import in_
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.strategies import TokenSelector
from scalekv_core.contracts.view import AttentionMasses, CacheView
from scalekv_core.errors import InputError
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases.base import Case, read_maps
from scalekv_core.testing.cases.numbers import CONTENTS, DTYPES, LAYOUTS, laid_out, numbers
from scalekv_core.testing.common import Blocked

SOFTMAX = {"usual": 1.0, "none": 0.0, "sharp": 4.0}
"""Ratios of the factor on q.k to 1 / sqrt(D); ``none`` is a factor of 1, for models that normalize queries and keys."""


@frozen(kw_only=True, repr=False)
class ViewCase(Case):
    """What a selector or merger sees of one group of heads after a scale, and how many tokens it may keep.

    The scale is never the last one: nothing is kept after that, so no selector is asked.

    Attributes:
        maps, scale: the schedule and the scale that was just generated.
        held: tokens of the history that are left, others in every row and head.
        keep: tokens that may be kept.
        rows, heads, width, layer, dtype, device: the shape of the view.
        first: number of the first head; if it is odd every second head is in the group.
        content, layout: of queries, keys and values.
        even: whether equally many tokens of a map are left in every row and head, as under quotas.
        softmax: of the factor on q.k, see :data:`SOFTMAX`.
        counts: whether tokens of the history stand for several.
        seed: of all numbers.
    """

    maps: ScaleSchedule = field(default=ScaleSchedule([(1, 2), (1, 1)]), converter=read_maps)
    scale: int = 0
    held: int = 0
    keep: int = 1
    rows: int = 1
    heads: int = 1
    width: int = 1
    layer: int = 0
    first: int = 0
    dtype: str = field(default="float32", validator=in_(DTYPES))
    content: str = field(default="ordinary", validator=in_(CONTENTS))
    layout: str = field(default="plain", validator=in_(LAYOUTS))
    softmax: str = field(default="usual", validator=in_(SOFTMAX))
    counts: bool = False
    even: bool = False
    seed: int = 0
    device: str = "cpu"

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.scale < len(self.maps) or not 0 <= self.held <= self.maps.history[self.scale]:
            raise InputError(f"scale {self.scale} of maps {self.maps} has no history of {self.held} tokens")
        if self.scale == len(self.maps) - 1:
            raise InputError(f"scale {self.scale} is the last of maps {self.maps}; nothing is selected after it")

    @property
    def tokens(self) -> int:
        """N."""
        return self.held + self.maps.tokens[self.scale]

    @property
    def softmax_scale(self) -> float:
        """The factor on q.k."""
        relation = SOFTMAX[self.softmax]
        return relation * self.width**-0.5 if relation else 1.0

    def view(self, selector: TokenSelector | None = None) -> CacheView:
        """The view; its statistics are what this selector observed at the earlier scales of the same image.

        Raises:
            Blocked: ``observe`` does not return the statistics that the selector names.
        """
        view = self._without_statistics()
        if selector is None or not selector.statistics:
            return view
        if not view.history:
            zero = torch.zeros_like(view.positions, dtype=torch.float32)
            return evolve(view, statistics={name: zero.clone() for name in selector.statistics})
        before = self._observed_before(selector, view)
        return evolve(view, statistics={name: F.pad(x, (0, view.current)) for name, x in before.items()})

    def _without_statistics(self) -> CacheView:
        generator = torch.Generator().manual_seed(self.seed)
        history, current = self.maps.history[self.scale], self.maps.tokens[self.scale]
        shape = (self.rows, self.heads)
        held = torch.from_numpy(self._held())
        latest = torch.arange(history, history + current).expand(*shape, -1)
        counts = torch.randint(1, 9, (*shape, self.held), generator=generator).float()
        q, k, v = (self._numbers(tokens, generator) for tokens in (current, self.tokens, self.tokens))
        if self.content == "huge":  # dot products stay finite whatever the factor is
            q = q * (self.width**-0.5 / self.softmax_scale)
        step = 1 + self.first % 2
        return CacheView(
            q=q,
            k=k,
            v=v,
            positions=torch.cat([held, latest], dim=2).to(self.device, torch.int32),
            counts=torch.cat([counts, torch.ones(*shape, current)], dim=2).to(self.device) if self.counts else None,
            schedule=self.maps,
            layer=self.layer,
            scale=self.scale,
            heads=tuple(range(self.first, self.first + step * self.heads, step)),
            softmax_scale=self.softmax_scale,
        )

    def held_of_maps(self) -> list[int]:
        """Tokens of each map of the history that remain, where every row and head has equally many."""
        history = self.maps.history[self.scale]
        chosen = np.random.default_rng(self.seed).permutation(history)[: self.held]
        edges = [*self.maps.history[: self.scale], history]
        return [int(n) for n in np.histogram(chosen, bins=edges)[0]] if self.scale else []

    def _held(self) -> NDArray[np.int64]:
        """[B, H, held] positions of the history, ascending, different in every row and head."""
        rng, shape = np.random.default_rng(self.seed + 2), (self.rows, self.heads)
        if not self.even:
            order = rng.random((*shape, self.maps.history[self.scale])).argsort(axis=-1)
            return np.sort(order[..., : self.held], axis=-1)
        parts = [
            start + np.sort(rng.random((*shape, tokens)).argsort(axis=-1)[..., :number], axis=-1)
            for start, tokens, number in zip(self.maps.history, self.maps.tokens, self.held_of_maps(), strict=False)
        ]
        return np.concatenate(parts, axis=-1) if parts else np.zeros((*shape, 0), dtype=np.int64)

    def _observed_before(self, selector: TokenSelector, view: CacheView) -> Mapping[str, Tensor]:
        """{name: (B, H, held)} what the selector observed while the history was generated.

        At each earlier scale it sees a whole map and what is left of the maps before: the tokens that are held in the end,
        and in some rows and heads others, so that all hold equally many.
        """
        generator = torch.Generator().manual_seed(self.seed + 1)
        shape, held = view.k.shape[:2], view.positions[:, :, : view.history].long()
        left = held[:, :, :0]
        statistics = {name: view.k.new_zeros(*shape, 0, dtype=torch.float32) for name in selector.statistics}
        for scale in range(self.scale):
            start, tokens = self.maps.history[scale], self.maps.tokens[scale]
            current = torch.arange(start, start + tokens, device=held.device).expand(*shape, -1)
            seen = torch.cat([left, current], dim=2)
            statistics = {name: F.pad(x, (0, tokens)) for name, x in statistics.items()}
            earlier = self._earlier(view, scale, seen, statistics, generator)
            is_held = _contains(held, current)
            most = int(is_held.sum(dim=2).max())
            of_map = is_held.float().argsort(dim=2, descending=True, stable=True)[..., :most].sort(dim=2).values
            kept = torch.cat([ops.all_tokens(seen, 0, left.shape[2]), of_map + left.shape[2]], dim=2)
            left = seen.gather(2, kept)
            statistics = {name: x.gather(2, kept) for name, x in observed(selector, earlier).items()}
        where = torch.searchsorted(left.contiguous(), held.contiguous())
        return {name: x.gather(2, where) for name, x in statistics.items()}

    def _earlier(
        self, view: CacheView, scale: int, seen: Tensor, statistics: Mapping[str, Tensor], generator: torch.Generator
    ) -> CacheView:
        """The view after an earlier scale of the same image, of these positions."""
        lengths = (self.maps.tokens[scale], seen.shape[2], seen.shape[2])
        q, k, v = (self._numbers(tokens, generator) for tokens in lengths)
        counts = None if view.counts is None else torch.ones_like(seen, dtype=torch.float32)
        return evolve(
            view,
            q=q,
            k=k,
            v=v,
            positions=seen.int(),
            counts=counts,
            statistics=statistics,
            scale=scale,
            masses=AttentionMasses(),
        )

    def _numbers(self, tokens: int, generator: torch.Generator) -> Tensor:
        """(B, H, tokens, D) of the case's content, as they lie in memory."""
        shape = (self.rows, self.heads, tokens, self.width)
        return laid_out(numbers(shape, self.content, DTYPES[self.dtype], generator).to(self.device), self.layout)

    def __repr__(self) -> str:
        return f"ViewCase.parse({str(self)!r})"


def observed(selector: TokenSelector, view: CacheView) -> dict[str, Tensor]:
    """The selector's statistics after this view; Blocked if they are not what it says."""
    if not selector.statistics:
        return {}
    statistics = selector.observe(view)
    for name in selector.statistics:
        x = statistics.get(name) if isinstance(statistics, Mapping) else None
        if not isinstance(x, Tensor) or x.shape != view.positions.shape:
            raise Blocked("statistics_are_as_named", f"statistic {name!r} is not observed")
    return {name: statistics[name] for name in selector.statistics}


def _contains(held: Tensor, positions: Tensor) -> Tensor:
    """(B, H, n) whether each position is among those held (B, H, N, ascending) of the same row and head."""
    where = torch.searchsorted(held.contiguous(), positions.contiguous()).clamp_max(held.shape[2] - 1)
    return held.gather(2, where) == positions
