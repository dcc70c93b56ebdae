"""What some token selectors claim beyond the contract: checked for those whose ``claims`` name it.

They are metamorphic laws: what may be changed in a view without changing the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.contracts.strategies import ScoringSelector
from scalekv_core.contracts.view import AttentionMasses, CacheView
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import ViewCase
from scalekv_core.testing.checks.asking import answer, keep_of, mapped, seen_by, view_of
from scalekv_core.testing.checks.selectors import Make
from scalekv_core.testing.common import Blocked, NotApplicable, all_same, only_if

ROOM = 24
"""As many tokens as are kept at least where the one that all look at has to be among them: pooling lifts its neighbours too."""


def claimed(check: Callable[[Make, ViewCase], None]) -> Any:
    """Marks a check that is made only on those that claim it."""
    name = check.__name__.removeprefix("check_")
    return only_if(lambda selector: name in selector.claims, "it does not claim this")(check)


def unmoved(make: Make, case: ViewCase, change: Callable[[CacheView], CacheView], what: str) -> None:
    """The answer to a changed view is the answer to the view."""
    view = view_of(make(), case)
    assert all_same(answer(make(), case, view), answer(make(), case, change(view))), f"it changes with {what}"


@claimed
def check_heads_are_alike(make: Make, case: ViewCase) -> None:
    """The answer depends on what a head holds and not on which head of the layer it is."""
    view = view_of(make(), case.with_several(heads=2))
    expected = [x.flip(1) for x in answer(make(), case, view)]
    actual = answer(make(), case, mapped(view, lambda x: x.flip(1)))
    assert all_same(expected, actual), "two heads that swap what they hold do not swap their answers"


@claimed
def check_layers_are_alike(make: Make, case: ViewCase) -> None:
    """The answer does not depend on which layer it is."""
    unmoved(make, case, lambda view: evolve(view, layer=view.layer + 1), "the number of the layer")


@claimed
def check_length_of_keys_is_ignored(make: Make, case: ViewCase) -> None:
    """Keys twice as long change nothing: only their order matters."""
    unmoved(make, case, lambda view: evolve(view, k=view.k * 2), "the length of all keys")


@claimed
def check_contents_are_ignored(make: Make, case: ViewCase) -> None:
    """Queries, keys and values do not matter; positions do."""
    other = evolve(case, content="ordinary").view()
    other = mapped(other, lambda x: x.flip(-1) + 1 if x.is_floating_point() else x)
    unmoved(make, case, lambda view: evolve(view, q=other.q, k=other.k, v=other.v), "queries, keys or values")


@claimed
def check_older_maps_are_ignored(make: Make, case: ViewCase) -> None:
    """A longer history whose tokens are gone moves positions and nothing else."""

    def later(view: CacheView) -> CacheView:
        schedule = ScaleSchedule([(1, 2, 3), *view.schedule.maps])
        return evolve(view, schedule=schedule, scale=view.scale + 1, positions=view.positions + 6)

    unmoved(make, case, later, "maps before all tokens that are left")


@claimed
def check_larger_budgets_keep_more(make: Make, case: ViewCase) -> None:
    """A larger budget keeps every token that a smaller one keeps, so the retained attention never falls as the budget grows."""
    selector = make()
    view = seen_by(selector, view_of(selector, case))
    few = keep_of(selector, case, view)
    if few + 1 >= case.tokens:
        raise NotApplicable("there is no room for one more")
    small, large = (_held(selector.select(view, keep), case) for keep in (few, few + 1))
    lost = small & ~large
    if isinstance(selector, ScoringSelector):  # among equals any may go
        scores = selector.score(view, few + 1).double()
        lost &= scores < scores.masked_fill(~large, torch.inf).amin(dim=-1, keepdim=True)
    assert not bool(lost.any()), f"a token that is among {few} is not among {few + 1}"


def _held(kept: Tensor, case: ViewCase) -> Tensor:
    """(B, H, N) whether each token is kept."""
    if not isinstance(kept, Tensor) or kept.dim() != 3 or int(kept.max()) >= case.tokens:
        raise Blocked("fills_its_capacity", "its indices are of another form")
    held = torch.zeros(*kept.shape[:2], case.tokens, dtype=torch.bool, device=kept.device)
    return held.scatter_(2, kept, True)


@claimed
def check_follows_attention(make: Make, case: ViewCase) -> None:
    """A token that gets nearly all attention is kept, wherever it lies: since all queries look at it, or since it stands for
    so many others that its count outweighs them."""
    selector, case = make(), _roomy(case)
    view = view_of(selector, case)
    larger = evolve(view, q=view.q * 4, softmax_scale=view.softmax_scale / 4, masses=AttentionMasses())
    assert all_same(answer(selector, case, view), answer(selector, case, larger)), (
        "queries four times as large under a quarter of the softmax scale attend alike, and other tokens are kept"
    )
    for target in {0, case.held, case.seed % case.tokens, case.tokens - 1}:
        kept = answer(selector, case, _looking_at(view, target))[-1]
        assert bool((kept == target).any(dim=-1).all()), (
            f"all queries look at token {target} of {case.tokens}, and it is not among the {kept.shape[2]} that are kept"
        )
    for target in {0, case.seed % max(1, case.held), case.held - 1} if case.held else ():
        kept = answer(selector, case, _counting(view, target))[-1]
        assert bool((kept == target).any(dim=-1).all()), (
            f"token {target} of {case.tokens} stands for a million others and gets the attention of all of them, "
            f"and it is not among the {kept.shape[2]} that are kept"
        )


def _roomy(case: ViewCase) -> ViewCase:
    """The case with the whole history, and with one map more where there are too few tokens to choose from."""
    maps, scale = case.maps, case.scale
    if maps.seen[scale] <= ROOM:
        maps, scale = ScaleSchedule([*maps.maps[: scale + 1], (1, ROOM // 4, 5), (1, 1, 1)]), scale + 1
    keep = max(case.keep, ROOM)
    return evolve(case, maps=maps, scale=scale, keep=keep, held=maps.history[scale], counts=False, content="ordinary")


def _looking_at(view: CacheView, target: int) -> CacheView:
    """The view with keys and queries that send all attention to one token, and no statistics from before."""
    width = view.k.shape[3]
    one = torch.ones_like(view.k[:, :, :1]) * (30 / view.softmax_scale / width) ** 0.5
    keys = torch.zeros_like(view.k).index_copy(2, torch.tensor([target], device=one.device), one)
    return evolve(view, q=one.expand_as(view.q), k=keys, statistics=_nothing_yet(view))


def _counting(view: CacheView, target: int) -> CacheView:
    """The view with keys that are all alike, so that attention goes by counts, and one token that stands for a million."""
    counts = torch.ones_like(view.positions, dtype=torch.float32)
    counts[:, :, target] = 1e6
    return evolve(view, k=torch.zeros_like(view.k), counts=counts, statistics=_nothing_yet(view))


def _nothing_yet(view: CacheView) -> dict[str, Tensor]:
    return {name: torch.zeros_like(x) for name, x in view.statistics.items()}


def check_claims_are_known(make: Make) -> None:
    """Whatever it claims beyond the contract is something that this kit checks."""
    unknown = set(make().claims) - set(CLAIMS)
    assert not unknown, f"it claims {', '.join(sorted(unknown))}; what can be claimed is {', '.join(CLAIMS)}"


CLAIMS = tuple(
    name.removeprefix("check_")
    for name, check in list(vars().items())
    if name.startswith("check_") and hasattr(check, "only_if")
)
"""The names that ``TokenSelector.claims`` may hold."""
