"""What a strategy receives, and what its base class does for it."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalekv_core import CacheView, ContractError, ScaleSchedule, ScoringSelector, ops
from scalekv_core.contracts.defaults import Dense, Drop
from tests.plain import HashPicks, HashScores

SCHEDULE = ScaleSchedule([(1, 2), (2, 2), (1, 2, 3)])


def view_of(*, scale: int = 2, rows: int = 2, heads: int = 3, counts: bool = False) -> CacheView:
    generator = torch.Generator().manual_seed(0)
    tokens, n = SCHEDULE.seen[scale], SCHEDULE.tokens[scale]
    q = torch.randn(rows, heads, n, 4, generator=generator)
    k, v = torch.randn(2, rows, heads, tokens, 4, generator=generator)
    return CacheView(
        q=q,
        k=k,
        v=v,
        positions=torch.arange(tokens).expand(rows, heads, -1),
        counts=torch.rand(rows, heads, tokens, generator=generator) + 1 if counts else None,
        statistics={"sum": torch.rand(rows, heads, tokens, generator=generator)},
        schedule=SCHEDULE,
        layer=1,
        scale=scale,
        heads=tuple(range(heads)),
        softmax_scale=0.5,
    )


def test_a_view_knows_where_it_is() -> None:
    """A view knows its tokens, its history, the current map and its shape."""
    view = view_of()

    assert (12, 6, 6, (1, 2, 3)) == (view.tokens, view.current, view.history, view.map)


@pytest.mark.parametrize("counts", [False, True])
def test_mass_is_of_all_queries_or_of_some(counts: bool) -> None:
    """The masses of two sets of queries add up to the mass of both."""
    view = view_of(counts=counts)
    parts = [view.attention_mass(torch.tensor(part)) for part in ([0, 3], [1, 2, 4, 5])]

    torch.testing.assert_close(parts[0] + parts[1], view.attention_mass())
    torch.testing.assert_close(view.attention_mass().sum(dim=2), torch.full((2, 3), 6.0))


def test_the_mass_of_the_same_queries_is_computed_once() -> None:
    """A merger reuses the selector's masses; other queries and other views are computed anew."""
    view, some = view_of(), torch.tensor([0, 3])
    mass = view.attention_mass(some)

    assert view.attention_mass(some) is mass
    assert view.attention_mass() is view.attention_mass()
    assert view.attention_mass(some.clone()) is not mass
    assert view.slice(0, 12).attention_mass(some) is not mass


@given(st.integers(0, 11), st.integers(1, 12))
def test_a_slice_is_the_same_tokens(start: int, length: int) -> None:
    """A slice has these tokens' keys, values, positions, counts and statistics, and all queries of the current map."""
    view, stop = view_of(counts=True), min(12, start + length)
    part = view.slice(start, stop)

    assert view.counts is not None
    assert part.counts is not None
    for whole, cut in (
        (view.k, part.k),
        (view.v, part.v),
        (view.positions, part.positions),
        (view.counts, part.counts),
        (view.statistics["sum"], part.statistics["sum"]),
    ):
        assert torch.equal(whole[:, :, start:stop], cut)
    assert view.q is part.q
    assert stop - start == part.tokens


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=4).filter(
        lambda x: sum(n for n, _ in x) <= 12
    )
)
def test_both_ways_to_select_by_source_agree(parts: list[tuple[int, int]]) -> None:
    """One score over the view and one selection per source scale give the same tokens."""
    view, keeps, start = view_of(), [], 0
    for there, keep in parts:
        keeps.append((start, start + there, min(there, keep)))
        start += there
    if not any(keep for _, _, keep in keeps):
        return
    mine, theirs = HashScores().select_by_source(view, keeps), HashPicks().select_by_source(view, keeps)

    assert torch.equal(mine, theirs)
    assert (mine[:, :, 1:] > mine[:, :, :-1]).all()
    for a, b, keep in keeps:
        assert (((mine >= a) & (mine < b)).sum(dim=2) == keep).all()


def test_a_scoring_selector_is_one_expression() -> None:
    """A scoring selector only defines score."""

    @frozen
    class Norm(ScoringSelector):
        def score(self, view: CacheView, keep: int) -> Tensor:
            return view.k.norm(dim=-1)

    view = view_of()
    kept = Norm().select(view, 5)

    norms = view.k.norm(dim=-1)
    assert (norms.gather(2, kept).amin(dim=2) >= norms.topk(6, dim=2).values[..., -1]).all()
    assert {} == Norm().observe(view)
    assert 1 == Norm().least(SCHEDULE, 0)


@frozen
class Answers(ScoringSelector):
    """Returns the scores that it was made with."""

    answer: object

    def score(self, view: CacheView, keep: int) -> Tensor:
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "got"),
    [("best", "a str"), (None, "a NoneType"), (torch.zeros(2, 3), r"torch.float32 of shape \(2, 3\)")],
    ids=["text", "nothing", "a score per head"],
)
def test_scores_of_another_shape_or_kind_are_refused(answer: object, got: str) -> None:
    """The error gives class, answer and wanted shape, for both ways to select."""
    selector, view = Answers(answer), view_of()
    message = rf"^Answers.score returned {got}; wanted \(B, H, N\) = \(2, 3, 12\)$"
    with pytest.raises(ContractError, match=message):
        selector.select(view, 3)
    with pytest.raises(ContractError, match=message):
        selector.select_by_source(view, [(0, 6, 2), (6, 12, 1)])


def test_drop_assigns_every_other_token_to_nothing() -> None:
    """`drop` assigns kept tokens to themselves and all others to -1."""
    view = view_of()
    kept = torch.tensor([0, 3, 11]).expand(2, 3, -1)
    target = Drop().assign(view, kept)

    assert torch.equal(ops.all_tokens(kept, 0, 3), target.gather(2, kept))
    assert 9 * 6 == (target == -1).sum()


def test_dense_is_exact_and_has_its_own_memory() -> None:
    """`dense` is bit-exact and copies, also if all tokens are kept."""
    view = view_of()
    stored = Dense().keep(None, view.k, view.k, None, "key")
    out = torch.empty_like(view.k)
    Dense().decode(stored, "key", out)

    assert torch.equal(view.k, out)
    assert view.k.untyped_storage().data_ptr() != stored.tokens["x"].untyped_storage().data_ptr()
    assert out.nbytes == Dense().nbytes("key", rows=2, heads=3, tokens=12, maps=1, head_dim=4, dtype=out.dtype)
