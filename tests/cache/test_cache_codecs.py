"""Codecs: decoded tokens were encoded once, bytes are as planned, and a small codec has a small peak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalekv_core import CacheCodec, CacheGeometry, CachePlan, Encoded, KVCache, ScaleSchedule, footprint
from scalekv_core.contracts.defaults import Dense
from scalekv_core.contracts.encoded import Kind
from scalekv_core.memory.meter import PeakMeter
from tests.plain import (
    Case,
    FoldIntoNearest,
    Half,
    HashScores,
    Int8,
    Int8PerChannel,
    PlainCache,
    Seen,
    Sums,
    cases,
    drive,
    plain_attention,
    policy_of,
)


@given(cases(), st.sampled_from([Half(), Int8(), Dense()]), st.integers(0, 5))
def test_a_token_is_encoded_once(case: Case, codec: CacheCodec, seed: int) -> None:
    """Under any plan each token of the history was encoded and decoded once, however often others are evicted.

    The current map is seen as it is, attention is over exactly that, and resident bytes are the planned ones.
    """
    policy = policy_of(HashScores(seed=seed, by_value=False), codec=codec)
    seen, plain = Seen(), PlainCache(case, seed=seed, by_value=False)
    cache = KVCache(case.plan, policy, check=True, observer=seen)
    once = [tuple(decoded(codec, x) for x in layer[1:]) for layer in case.tensors]
    for scale in range(len(case.schedule)):
        start, stop = case.schedule.history[scale], case.schedule.seen[scale]
        tokens = plain.append(scale)
        for layer, (q, k, v) in enumerate(case.maps(scale)):
            out = cache.attend(layer, q, k, v, softmax_scale=case.softmax_scale)
            for (of, row, head), held in tokens.items():
                if of != layer:
                    continue
                view, _, place = seen.head(scale, layer, head)
                positions = [token.position for token in held]
                past = [position for position in positions if position < start]
                assert positions == view.positions[row, place].tolist()
                read = []
                for whole, x, current in zip(once[layer], (view.k, view.v), (k, v), strict=True):
                    read.append(torch.cat([whole[row, head, past], current[row, head]]))
                    assert torch.equal(read[-1], x[row, place])
                expected = plain_attention(q[row, head], *read, case.softmax_scale)
                torch.testing.assert_close(out[row, head].double(), expected, rtol=2e-5, atol=2e-6)
        plain.cut(scale, tokens)
        assert stop >= max((len(held) for held in plain.held.values()), default=0)
        assert footprint(case.plan, policy, case.geometry).planned[scale] == cache.resident_bytes()
    assert footprint(case.plan, policy, case.geometry).scratch == cache.scratch_bytes


def decoded(codec: CacheCodec, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    codec.decode(codec.encode(x, "key"), "key", out)
    return out


@given(cases(), st.booleans(), st.booleans())
def test_ranges_are_shared_and_paid_for(case: Case, folds: bool, sums: bool) -> None:
    """A codec with one range per channel, with and without merger and statistics: bytes are as planned, errors are small."""
    selector = Sums(by_value=False) if sums else HashScores(by_value=False)
    merger = {"merger": FoldIntoNearest()} if folds else {}
    policy = policy_of(selector, codec=Int8PerChannel(), **merger)
    cache = KVCache(case.plan, policy, check=True)
    outs = drive(case, cache)

    assert footprint(case.plan, policy, case.geometry).planned == tuple(cache.resident)
    assert all(out.isfinite().all() for layers in outs for out in layers)


@pytest.mark.parametrize("codec", [Half(), Int8(), Int8PerChannel(), Dense()])
def test_the_parts_of_a_codec_agree(codec: CacheCodec) -> None:
    """join and gather of codes are the codes of the joined and gathered tokens."""
    x = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    early = codec.encode(x[:, :, :4], "key")
    late = codec.encode(x[:, :, 4:], "key", like=early)
    index = torch.tensor([0, 3, 4, 6]).expand(2, 3, -1)
    joined = early.join(late)
    kept = codec.keep(early, x[:, :, 4:], x, index, "key")

    assert (4, 3, 7, 4) == (early.length, late.length, joined.length, kept.length)
    parts = [torch.empty(2, 3, n, 8) for n in (4, 3, 7, 4)]
    for stored, maps, out in zip((early, late, joined, kept), (1, 2, 2, 2), parts, strict=True):
        codec.decode(stored, "key", out)
        planned = codec.nbytes("key", rows=2, heads=3, tokens=stored.length, maps=maps, head_dim=8, dtype=x.dtype)
        assert planned == sum(t.untyped_storage().nbytes() for t in stored.tensors())
    whole = x if isinstance(codec, Dense) else torch.cat(parts[:2], dim=2)
    assert torch.equal(whole, parts[2])
    assert torch.equal(whole[:, :, [0, 3, 4, 6]], parts[3])


def test_owned_copies_what_is_not_its_own() -> None:
    """Views, and parts of foreign tensors, are copied; the rest is passed through."""
    own, foreign = torch.ones(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
    stored = Encoded({"own": own, "theirs": foreign, "view": own[:, :, :2]}, {"range": foreign[0]})
    after = stored.owned(foreign)

    assert own is after.tokens["own"]
    for tensor in (after.tokens["theirs"], after.tokens["view"], after.ranges["range"]):
        assert tensor.nbytes == tensor.untyped_storage().nbytes()
        assert tensor.untyped_storage().data_ptr() not in (own.data_ptr(), foreign.data_ptr())


@pytest.mark.parametrize("room", ["everything", "a third"])
def test_a_small_codec_makes_a_small_peak(room: str) -> None:
    """The peak, including temporary buffers, is smaller with a small codec: decoding needs less than it saves."""
    schedule = ScaleSchedule.square(1, 2, 4, 6, 8)
    geometry = CacheGeometry(schedule=schedule, layers=12, heads=4, head_dim=32, rows=2)
    keepable = np.array(schedule.keepable())
    capacity = keepable if room == "everything" else np.minimum(keepable, schedule.last_history // 3)
    case = Case(CachePlan(schedule, np.broadcast_to(capacity[:, None, None], (5, 12, 4))), geometry)
    peaks = {}
    for codec in (Dense(), Half(), Int8()):
        meter, cache = PeakMeter(torch.device("cpu")), KVCache(case.plan, policy_of(codec=codec))
        with meter:
            drive(case, cache)
        planned = footprint(case.plan, cache.policy, geometry)
        peaks[type(codec)] = meter.peak
        assert planned.planned == tuple(cache.resident)
        assert planned.most_planned <= meter.peak
    assert peaks[Int8] < peaks[Half] < peaks[Dense]


@frozen
class TellsKeysFromValues(CacheCodec):
    """Stores keys as they are and values negated, so that an exchange of the two is visible."""

    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        return Encoded({kind: x * self.sign(kind)})

    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        out.copy_(stored.tokens[kind] * self.sign(kind))

    def sign(self, kind: Kind) -> int:
        return {"key": 1, "value": -1}[kind]

    def nbytes(self, *, rows: int, heads: int, tokens: int, head_dim: int, dtype: torch.dtype) -> int:
        return rows * heads * tokens * head_dim * dtype.itemsize


@pytest.mark.parametrize("folds", [False, True])
def test_a_codec_is_told_keys_from_values(folds: bool) -> None:
    """Every call gets the right kind, whether tokens are kept, dropped or folded."""
    schedule = ScaleSchedule.square(1, 2, 3, 4)
    geometry = CacheGeometry(schedule=schedule, layers=2, heads=2, head_dim=4, rows=2)
    plan = CachePlan(schedule, np.broadcast_to(np.array([1, 4, 6, 0])[:, None, None], (4, 2, 2)))
    case, merger = Case(plan, geometry), {"merger": FoldIntoNearest()} if folds else {}
    expected = drive(case, KVCache(plan, policy_of(**merger)))
    got = drive(case, KVCache(plan, policy_of(codec=TellsKeysFromValues(), **merger)))
    assert all(torch.equal(x, y) for a, b in zip(expected, got, strict=True) for x, y in zip(a, b, strict=True))
