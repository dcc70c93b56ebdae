"""The cache against lists of positions: tokens held, attention, and bytes, after every scale."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalekv_core import CacheGeometry, CachePlan, CacheView, KVCache, ScaleSchedule, SessionError, footprint
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.plan import everything
from scalekv_core.memory.meter import PeakMeter, StorageTracker
from tests.plain import (
    Case,
    HashPicks,
    HashScores,
    PlainCache,
    Seen,
    Sums,
    cases,
    drive,
    plain_attention,
    policy_of,
)

EXACT = {"rtol": 2e-5, "atol": 2e-6}
TOLERANCE = {
    torch.float64: EXACT,
    torch.float32: EXACT,
    torch.bfloat16: {"rtol": 0.02, "atol": 0.02},
    torch.float16: {"rtol": 3e-3, "atol": 3e-3},
}
dtypes = st.sampled_from(list(TOLERANCE))


def same(mine: Sequence[Sequence[Tensor]], theirs: Sequence[Sequence[Tensor]]) -> bool:
    """Whether all outputs of two images are bit-identical."""
    return all(torch.equal(x, y) for a, b in zip(mine, theirs, strict=True) for x, y in zip(a, b, strict=True))


def check_attention(case: Case, scale: int, layer: int, out: Tensor, tokens: dict[tuple[int, int, int], list]) -> None:
    """Attention equals softmax over exactly the held history and the whole current map, in float64."""
    q, k, v = case.tensors[layer]
    start, stop = case.schedule.history[scale], case.schedule.seen[scale]
    expected = torch.empty(out.shape, dtype=torch.float64)
    for row in range(out.shape[0]):
        for head in range(out.shape[1]):
            held = [token.position for token in tokens[layer, row, head]]
            expected[row, head] = plain_attention(
                q[row, head, start:stop], k[row, head, held], v[row, head, held], case.softmax_scale
            )
    assert case.geometry.dtype == out.dtype
    torch.testing.assert_close(out.double(), expected, **TOLERANCE[case.geometry.dtype])


@given(st.data(), dtypes, st.sampled_from([HashScores, HashPicks]), st.integers(0, 5))
def test_the_cache_is_what_anybody_would_write(data: st.DataObject, dtype: torch.dtype, kind: type, seed: int) -> None:
    """The cache equals a plain-Python model for any schedule, batch, capacities and quotas, in every layer, row and
    head:

    positions are those of the plain model; keys and values are the originals, bit by bit; never more than the capacity;
    the current map is seen whole; attention is softmax over exactly that; and the bytes are the planned ones.
    """
    case = data.draw(cases(dtype=dtype))
    seen, plain, policy = Seen(), PlainCache(case, seed=seed), policy_of(kind(seed=seed))
    cache = KVCache(case.plan, policy, check=True, observer=seen)
    for scale in range(len(case.schedule)):
        tokens = plain.append(scale)
        for layer, (q, k, v) in enumerate(case.maps(scale)):
            out = cache.attend(layer, q, k, v, softmax_scale=case.softmax_scale)
            check_attention(case, scale, layer, out, tokens)
        plain.cut(scale, tokens)
        check_held(case, seen, plain, scale, tokens)
        assert [cache.held_tokens(layer) for layer in range(case.plan.layers)] == case.plan.held[scale].tolist()
        assert footprint(case.plan, policy, case.geometry).planned[scale] == cache.resident_bytes()
    assert footprint(case.plan, policy, case.geometry).planned == tuple(cache.resident)
    assert footprint(case.plan, policy, case.geometry).scratch == cache.scratch_bytes
    assert case.plan.drops == cache.dropped
    assert cache.complete
    assert [] == list(cache.tensors()), "nothing is stored after the last scale"


def check_held(case: Case, seen: Seen, plain: PlainCache, scale: int, tokens: dict[tuple[int, int, int], list]) -> None:
    """Compares the tokens seen and kept with the plain model, one by one."""
    for (layer, row, head), held in plain.held.items():
        view, kept, place = seen.head(scale, layer, head)
        positions = [token.position for token in tokens[layer, row, head]]
        assert positions == view.positions[row, place].tolist()
        for original, carried in zip(case.tensors[layer][1:], (view.k, view.v), strict=True):
            assert torch.equal(original[row, head, positions], carried[row, place])
        stay = view.positions[row, place] if kept is None else view.positions[row, place, kept[row, place]]
        assert [token.position for token in held] == stay.tolist()
        assert len(held) <= case.plan.capacity[scale, layer, head]


@given(cases(), st.sampled_from([HashScores, HashPicks, Sums]))
def test_nobody_watching_changes_nothing(case: Case, kind: type) -> None:
    """Outputs are bit-identical with and without observer and checks, twice over."""
    policy = policy_of(kind())
    watched = drive(case, KVCache(case.plan, policy, check=True, observer=Seen()))

    for _ in range(2):
        alone = drive(case, KVCache(case.plan, policy))
        assert same(alone, watched)


@given(cases())
def test_the_models_tensors_are_left_alone(case: Case) -> None:
    """Queries, keys and values are never written to, and no view of them is kept."""
    before = [tuple(x.clone() for x in layer) for layer in case.tensors]
    cache = KVCache(case.plan, policy_of(), check=True)
    own = {x.untyped_storage().data_ptr() for layer in case.tensors for x in layer}
    for scale in range(len(case.schedule)):
        for layer, (q, k, v) in enumerate(case.maps(scale)):
            cache.attend(layer, q, k, v, softmax_scale=case.softmax_scale)
            for tensor in cache.tensors():
                assert tensor.untyped_storage().data_ptr() not in own
                assert tensor.nbytes == tensor.untyped_storage().nbytes(), "a view keeps a larger storage alive"

    assert same(before, case.tensors)


@given(cases(quotas=False), dtypes)
def test_the_whole_budget_is_lossless(case: Case, dtype: torch.dtype) -> None:
    """With capacity for all tokens, outputs are bit-equal to torch.cat and SDPA."""
    g = case.geometry
    whole = Case(everything(g), g, seed=case.seed)
    tensors = [tuple(x.to(dtype) for x in layer) for layer in whole.tensors]
    reference, cache = ConcatCache(), KVCache(whole.plan, policy_of(), check=True)

    assert same(drive(whole, reference, tensors), drive(whole, cache, tensors))
    assert not cache.dropped


@given(st.data(), dtypes)
def test_heads_with_room_for_everything_are_lossless_beside_others(data: st.DataObject, dtype: torch.dtype) -> None:
    """Heads that keep everything stay bit-identical where other heads of the layer evict, and each group is computed on
    its own.
    """
    case = data.draw(cases(quotas=False))
    capacity = case.plan.capacity.copy()
    capacity[:, :, 0] = np.array(case.schedule.keepable())[:, None]
    case = Case(CachePlan(case.schedule, capacity), case.geometry, seed=case.seed)
    tensors = [tuple(x.to(dtype) for x in layer) for layer in case.tensors]

    mine, theirs = drive(case, KVCache(case.plan, policy_of()), tensors), drive(case, ConcatCache(), tensors)
    assert all(
        torch.equal(x[:, 0], y[:, 0]) for a, b in zip(mine, theirs, strict=True) for x, y in zip(a, b, strict=True)
    )


@given(cases(), st.randoms(use_true_random=False))
def test_rows_do_not_influence_one_another(case: Case, chance: random.Random) -> None:
    """Permuting the batch permutes the outputs, and a row alone gives the same output as in the batch, bit by bit."""
    policy, rows = policy_of(), list(range(case.geometry.rows))
    together = drive(case, KVCache(case.plan, policy))
    shuffled = chance.sample(rows, len(rows))
    for chosen in (shuffled, rows[:1], rows[1:]):
        if not chosen:
            continue
        apart = drive(case, KVCache(case.plan, policy), case.of_rows(chosen))
        assert same([[out[chosen] for out in outs] for outs in together], apart)


@given(cases())
def test_a_closed_cache_starts_anew(case: Case) -> None:
    """After close the next image, also of another batch and dtype, equals that of a new cache."""
    policy = policy_of()
    cache = KVCache(case.plan, policy, check=True)
    drive(case, cache, scales=max(1, len(case.schedule) - 1))
    cache.close()
    assert (0, 0, False, False) == (cache.resident_bytes(), cache.scratch_bytes, cache.complete, cache.dropped)
    assert [0] * len(case.schedule) == cache.resident

    tensors = [tuple(x[:1].double() for x in layer) for layer in case.tensors]
    mine, theirs = drive(case, cache, tensors), drive(case, KVCache(case.plan, policy), tensors)
    assert same(mine, theirs)


@given(cases())
def test_memory_is_really_given_back(case: Case) -> None:
    """After close no storage made during generation is alive."""
    case.tensors  # noqa: B018  made outside
    with StorageTracker() as tracker:
        cache = KVCache(case.plan, policy_of(Sums()))
        drive(case, cache)
        cache.close()
    assert 0 == tracker.live


@given(cases())
def test_scratch_is_one_buffer(case: Case) -> None:
    """All layers and scales read their history into the same memory, allocated once."""
    where: set[int] = set()

    def look(view: CacheView, kept: Tensor | None) -> None:
        if kept is not None:  # otherwise it was read into memory that is kept
            where.add(view.k.untyped_storage().data_ptr())

    drive(case, KVCache(case.plan, policy_of(), observer=look))
    assert len(where) <= 1


def test_keeping_everything_copies_nothing_twice() -> None:
    """The peak is what is held plus the scratch: no layer's tokens exist twice at any time."""
    schedule = ScaleSchedule.square(1, 2, 4, 8, 1)
    geometry = CacheGeometry(schedule=schedule, layers=6, heads=2, head_dim=16, rows=2)
    case, meter = Case(everything(geometry), geometry), PeakMeter(torch.device("cpu"))
    own = [tuple(x.contiguous() for x in layer) for layer in case.tensors]
    cache = KVCache(case.plan, policy_of())
    for scale in range(len(schedule)):
        for layer, (q, k, v) in enumerate(case.maps(scale, own)):
            with meter:
                cache.attend(layer, q, k, v, softmax_scale=1.0)
    held = footprint(case.plan, policy_of(), geometry)
    one_token = geometry.slot_bytes * 2 * 2  # more than the last map's output and what SDPA notes beside it

    assert held.most_planned <= meter.peak <= held.most_planned + held.scratch + one_token


def test_gradients_are_refused() -> None:
    """A graph would keep every map alive and could not pass an eviction; one line says what to do."""
    case = _small(torch.float32)
    tensors = [tuple(x.clone().requires_grad_() for x in layer) for layer in case.tensors]
    with pytest.raises(SessionError, match=r"asked for gradients, .*; generate under torch\.inference_mode\(\)"):
        drive(case, KVCache(case.plan, policy_of()), tensors)
    with torch.no_grad():
        mine = drive(case, KVCache(case.plan, policy_of()), tensors)

    assert same(drive(case, KVCache(case.plan, policy_of())), mine)


def test_inference_mode_is_fine() -> None:
    """The cache works in torch's strictest mode."""
    case = _small(torch.float32)
    with torch.inference_mode():
        mine = drive(case, KVCache(case.plan, policy_of()))
    theirs = drive(case, KVCache(case.plan, policy_of()))

    assert same(mine, theirs)


def _small(dtype: torch.dtype) -> Case:
    schedule = ScaleSchedule([(1, 1), (2, 3), (3, 4), (4, 4)])
    geometry = CacheGeometry(schedule=schedule, layers=3, heads=2, head_dim=8, rows=2, dtype=dtype)
    capacity = torch.tensor([1, 4, 5, 0]).view(4, 1, 1).expand(4, 3, 2).numpy()
    return Case(CachePlan(schedule, capacity), geometry)
