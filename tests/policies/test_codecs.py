"""The codecs that ship: the error and bytes that each states, beyond what the kit checks of every codec."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import scalekv_policies
from scalekv_core import (
    CacheGeometry,
    CachePlan,
    InputError,
    KVCache,
    ScaleSchedule,
    compress,
    footprint,
    load_model,
    plan_policy,
    shared_registry,
)
from scalekv_core.compare.metrics import compare
from scalekv_core.contracts.encoded import Kind
from scalekv_core.memory.meter import PeakMeter
from scalekv_core.testing import parametrize_with_checks
from scalekv_policies import Fold, Int4, Int8
from tests.plain import Case, HashScores, Sums, cases, policy_of

CODECS = {name: factory() for name, factory in scalekv_policies.scalekv_cache_codecs().items()} | {
    "int4 as KIVI": Int4(value_ranges="token"),
    "int4 per token": Int4(key_ranges="token", value_ranges="token"),
    "int8 per token": Int8(key_ranges="token", value_ranges="token"),
}
SMALL = [name for name in CODECS if name not in ("dense", "host")]
every_codec = pytest.mark.parametrize("name", CODECS)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def decoded(codec, stored, kind, like):
    out = torch.empty_like(like)
    codec.decode(stored, kind, out)
    return out


@pytest.mark.thorough
@parametrize_with_checks(
    {
        "int4-as-kivi": lambda: Int4(value_ranges="token"),
        "int4-per-token": lambda: Int4(key_ranges="token", value_ranges="token", group=1),
        "int8-per-token": lambda: Int8(key_ranges="token", value_ranges="token"),
    }
)
def test_whatever_its_ranges_a_codec_keeps_its_promises(check):
    """The kit tries the default ranges; this test tries the other ones."""
    check()


@given(cases(), st.sampled_from(sorted(CODECS)), st.booleans(), st.booleans())
def test_resident_is_planned(case: Case, name: str, folds: bool, sums: bool) -> None:
    """In any plan, with and without folding and statistics, held bytes equal planned bytes; no storage is larger."""
    selector = Sums(by_value=False) if sums else HashScores(by_value=False)
    policy = policy_of(selector, codec=CODECS[name], **({"merger": Fold()} if folds else {}))
    planned, cache = footprint(case.plan, policy, case.geometry), KVCache(case.plan, policy, check=True)
    for scale in range(len(case.schedule)):
        for layer, (q, k, v) in enumerate(case.maps(scale)):
            cache.attend(layer, q, k, v, softmax_scale=case.softmax_scale)
        assert planned.planned[scale] == cache.resident_bytes()
        assert all(tensor.nbytes == tensor.untyped_storage().nbytes() for tensor in cache.tensors())
    assert planned.scratch >= cache.scratch_bytes


@pytest.mark.parametrize("room", ["everything", "a third"])
def test_the_smaller_the_codes_the_smaller_the_peak(room: str) -> None:
    """The peak with a codec, decoding included, is below the peak without, and that of int4 is below that of int8."""
    schedule = ScaleSchedule.square(1, 2, 4, 6, 8, 10)
    geometry = CacheGeometry(schedule=schedule, layers=12, heads=4, head_dim=32, rows=2)
    keepable = np.array(schedule.keepable())
    capacity = keepable if room == "everything" else np.minimum(keepable, schedule.last_history // 3)
    case = Case(CachePlan(schedule, np.broadcast_to(capacity[:, None, None], (6, 12, 4))), geometry)
    peaks = {}
    for name in ("dense", *SMALL):
        meter, cache = PeakMeter(torch.device("cpu")), KVCache(case.plan, policy_of(codec=CODECS[name]))
        with meter:
            for scale in range(len(schedule)):
                for layer, (q, k, v) in enumerate(case.maps(scale)):
                    cache.attend(layer, q, k, v, softmax_scale=0.5)
        peaks[name] = meter.peak
    assert peaks["int4"] < peaks["int8"] < peaks["dense"]
    assert all(peaks[name] < peaks["dense"] for name in SMALL)


def test_bytes_of_a_token() -> None:
    """Bits per number at Infinity's width and a tenth of its history, with the ranges of all twelve maps."""
    sizes = {"rows": 1, "heads": 1, "tokens": 642, "maps": 12, "head_dim": 128, "dtype": torch.bfloat16}
    bits = {name: round(codec.nbytes("key", **sizes) * 8 / 642 / 128, 2) for name, codec in CODECS.items()}

    assert {
        "dense": 16.0,
        "host": 16.0,
        "fp8": 8.07,
        "int8": 8.66,
        "int8 per token": 8.25,
        "int4": 4.66,
        "int4 as KIVI": 4.66,
        "int4 per token": 4.25,
    } == bits


@pytest.mark.parametrize("codec", [Int8(), Int4()], ids=["int8", "int4"])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_channel_is_off_by_half_a_step(codec, kind) -> None:
    """The step is the channel's range divided by the levels, whatever the ranges of other channels are."""
    x = random(2, 3, 40, 6) * torch.tensor([0.01, 1, 100, 1, 1, 1]) + torch.tensor([0, 0, 0, 50.0, 0, 0])
    error = (decoded(codec, codec.encode(x, kind), kind, x) - x).abs()
    half = (x.amax(dim=2, keepdim=True) - x.amin(dim=2, keepdim=True)) / (2**codec.bits - 1) / 2

    assert (error <= half * 1.01 + 1e-5).all()
    assert (error.amax(dim=2, keepdim=True) > half * 0.5).all()


@pytest.mark.parametrize("codec", [Int8(), Int4()], ids=["int8", "int4"])
def test_a_map_of_one_token_loses_nothing(codec) -> None:
    """A map of one token has ranges of one number each, so the attention sink is exact."""
    x = random(2, 3, 1, 8).bfloat16()
    assert torch.equal(x, decoded(codec, codec.encode(x, "key"), "key", x))


@pytest.mark.parametrize("name", SMALL)
def test_later_maps_are_not_clipped_and_change_nothing(name: str) -> None:
    """A later map with values a hundred times as large has an error in proportion; earlier tokens keep their codes."""
    codec, x, y = CODECS[name], random(1, 2, 9, 8), 100 * random(1, 2, 16, 8, seed=1)
    first = codec.encode(x, "key")
    joined = codec.keep(first, y, torch.cat([x, y], dim=2), None, "key")
    both = decoded(codec, joined, "key", torch.cat([x, y], dim=2))

    assert torch.equal(decoded(codec, first, "key", x), both[:, :, :9])
    assert (both[:, :, 9:] - y).abs().max() <= 0.1 * y.abs().max()


@pytest.mark.parametrize("width", [1, 2, 5, 8])
def test_two_codes_share_a_byte(width: int) -> None:
    """At sixteen levels and any width, numbers that are multiples of the step are decoded exactly."""
    x = torch.arange(16.0).repeat(1, 2, width).view(1, 2, width, 16).transpose(2, 3)
    stored = Int4().encode(x, "value")

    assert (1, 2, 16, -(-width // 2)) == stored.tokens["codes"].shape
    torch.testing.assert_close(decoded(Int4(), stored, "value", x), x, rtol=1e-5, atol=1e-5)


def test_a_group_that_does_not_divide_the_width_is_refused_before_drawing() -> None:
    """The message is one line with the codec, both numbers and what to do."""
    policy = shared_registry().policy("uniform", codec="int4", options={"key_ranges": "token", "group": "48"})
    geometry = CacheGeometry(schedule=ScaleSchedule.square(1, 2, 3), layers=1, heads=1, head_dim=128)
    with pytest.raises(InputError, match="codec 'int4' groups 48 channels, and heads of this model are 128 wide; give"):
        plan_policy(policy, geometry, budget="50%")


def test_a_group_that_nobody_uses_is_refused() -> None:
    """The number of channels per range is refused where ranges are per channel, not ignored in silence."""
    with pytest.raises(InputError, match="'group' is for ranges per token"):
        shared_registry().policy("uniform", codec="int8", options={"group": "16"})


def test_more_maps_than_a_byte_can_tell_apart_are_refused() -> None:
    """The codec refuses such a schedule instead of counting modulo 256."""
    policy = shared_registry().policy("full", codec="int8")
    geometry = CacheGeometry(schedule=ScaleSchedule([(1, 1)] * 300), layers=1, heads=1, head_dim=2)
    with pytest.raises(InputError, match="tells 256 maps apart"):
        plan_policy(policy, geometry)


def test_fp8_names_the_devices_that_have_it() -> None:
    """On another device the message says who, where, and what to use instead."""

    class Elsewhere:
        device = torch.device("mps")

    with pytest.raises(InputError, match="has on cpu and cuda; keys and values are on mps; take 'int8'"):
        CODECS["fp8"].encode(Elsewhere(), "key")


@pytest.fixture(scope="module")
def divergences() -> dict[str, float]:
    """The codec's own error: nats per token from the unmodified model, tokens forced, nothing evicted."""
    model, prompts, found = load_model("var-tiny"), [str(digit) for digit in range(0, 10, 4)], {}
    full = model.generate(prompts, seeds=[0] * len(prompts), keep_logits=True)
    for name, codec in CODECS.items():
        with compress(model, "full", codec=codec):
            forced = model.generate(prompts, seeds=[0] * len(prompts), forced=full.tokens, keep_logits=True)
        figures = compare(forced, full, forced)
        found[name] = figures.over_scales(figures.kl)
    return found


@every_codec
def test_fidelity_on_a_trained_model(name: str, divergences: dict[str, float]) -> None:
    """Exact codecs change nothing; eight bits cost at most a thousandth of a nat, four bits a few hundredths."""
    most = {"dense": 0.0, "host": 0.0, "fp8": 0.005}.get(name, 0.001 if "int8" in name else 0.03)
    assert most >= divergences[name]
