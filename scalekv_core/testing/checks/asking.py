"""Calls selectors and mergers: a case becomes a view, and their answer a list of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.strategies import TokenMerger, TokenSelector, selects_each_source_alone
from scalekv_core.contracts.view import AttentionMasses, CacheView
from scalekv_core.testing.cases import ViewCase
from scalekv_core.testing.cases.views import observed
from scalekv_core.testing.common import Blocked, Refused, refused

Viewer = TokenSelector | TokenMerger
TENSORS = ("q", "k", "v", "positions", "counts")


def view_of(strategy: Viewer, case: ViewCase) -> CacheView:
    """The view of a case; for a selector with the statistics that it observed before."""
    return case.view(strategy if isinstance(strategy, TokenSelector) else None)


def answer(strategy: Viewer, case: ViewCase, view: CacheView) -> list[Tensor]:
    """Of a selector its statistics and indices; of a merger where every token goes, and its weight if it has one.

    Raises:
        Blocked: they are of another form, which one check is about.
        Refused: it keeps more than there is.
    """
    if isinstance(strategy, TokenSelector):
        return selected(strategy, case, view)
    return targets(strategy, case, view) + weights(strategy, view)


def ask(strategy: Viewer, case: ViewCase) -> list[Tensor]:
    """The answer for the view of a case."""
    return answer(strategy, case, view_of(strategy, case))


def ask_in_every_way(strategy: Viewer, case: ViewCase) -> list[Tensor]:
    """The same, and of a selector also what it keeps of each half of the tokens, as under quotas."""
    view = view_of(strategy, case)
    return answer(strategy, case, view) + by_halves(strategy, case, view)


def by_halves(strategy: Viewer, case: ViewCase, view: CacheView) -> list[Tensor]:
    """The indices under a quota for the older and one for the newer half of the tokens; nothing where it cannot be asked."""
    if not isinstance(strategy, TokenSelector):
        return []
    half, keep = view.tokens // 2, keep_of(strategy, case, view)
    older = min(half, keep // 2)
    parts = [(0, half, older), (half, view.tokens, min(keep - older, view.tokens - half))]
    return [] if asks_too_few(strategy, view, parts) else [strategy.select_by_source(seen_by(strategy, view), parts)]


def asks_too_few(selector: TokenSelector, view: CacheView, parts: Sequence[tuple[int, int, int]]) -> bool:
    """Whether a quota is below its least, where it leaves it to the core to select of each source scale alone."""
    least, inherits = selector.least(view.schedule, view.scale), selects_each_source_alone(selector)
    return sum(keep for _, _, keep in parts) < least or (
        inherits and any(0 < keep < min(least, stop - start) for start, stop, keep in parts)
    )


def mapped(view: CacheView, change: Callable[[Tensor], Tensor], **others: Any) -> CacheView:
    """The view with every tensor changed."""
    tensors = {name: getattr(view, name) for name in TENSORS}
    changed: dict[str, Any] = {name: None if x is None else change(x) for name, x in tensors.items()}
    statistics = {name: change(x) for name, x in view.statistics.items()}
    return evolve(view, **changed, statistics=statistics, masses=AttentionMasses(), **others)


def keep_of(selector: TokenSelector, case: ViewCase, view: CacheView) -> int:
    """How many tokens it is asked to keep: what the case says, but not less than it can work with."""
    keep = max(case.keep, selector.least(view.schedule, view.scale))
    if keep >= view.tokens:
        raise Refused(f"it keeps at least {keep}; there are {view.tokens}")
    return keep


def seen_by(selector: TokenSelector, view: CacheView) -> CacheView:
    """The view as ``select`` sees it: with the statistics brought up to date."""
    return evolve(view, statistics=observed(selector, view)) if selector.statistics else view


def selected(selector: TokenSelector, case: ViewCase, view: CacheView) -> list[Tensor]:
    """Statistics and indices; Blocked if the indices are of another form."""
    seen, keep = seen_by(selector, view), keep_of(selector, case, view)
    kept = selector.select(seen, keep)
    if not isinstance(kept, Tensor) or kept.shape != (*view.k.shape[:2], keep):
        raise Blocked("fills_its_capacity", f"it returned {refused(kept)}")
    return [*(seen.statistics[name] for name in selector.statistics), kept]


def kept_of(view: CacheView, case: ViewCase) -> Tensor:
    """(B, H, keep) tokens that are kept: in every row and head others, that depend on its keys alone."""
    score = view.k.float().sum(dim=-1) * (1 + view.positions % 3) + view.positions % 5
    return ops.top_tokens(score, case.keep)


def targets(merger: TokenMerger, case: ViewCase, view: CacheView, kept: Tensor | None = None) -> list[Tensor]:
    """Where every token goes; Blocked if that is of another form."""
    target = merger.assign(view, kept_of(view, case) if kept is None else kept)
    if not isinstance(target, Tensor) or target.shape != view.positions.shape or target.dtype != torch.int64:
        raise Blocked("assigns_every_token", f"it returned {refused(target)}")
    return [target]


def weights(merger: TokenMerger, view: CacheView) -> list[Tensor]:
    """What every token weighs, if that is not what it counts; Blocked if that is of another form."""
    weight = merger.weights(view)
    if weight is None:
        return []
    if not isinstance(weight, Tensor) or weight.shape != view.positions.shape or weight.dtype != torch.float32:
        raise Blocked("weights_are_positive", f"its weights are {refused(weight)}")
    return [weight]


def counts_of(view: CacheView) -> Tensor:
    """(B, H, N) how many tokens each one stands for."""
    return torch.ones_like(view.k[..., 0], dtype=torch.float32) if view.counts is None else view.counts
