"""Contenders compute the same attention from the same inputs; the layers that run stand for all others."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from scalekv_core.bench import AttentionAlone, ReleasedCode, Unmodified, make_inputs
from scalekv_core.bench.released import released_choice, window_of
from scalekv_core.cache.clock import NoClock


def outputs(contender, inputs):
    """The output of every call, {(scale, place): (B, H, n, D)}."""
    seen = {}

    def around(scale, place, call):
        seen[scale, place] = call()
        return seen[scale, place]

    AttentionAlone(inputs).draw(contender, contender.new_cache(NoClock()), around)
    return seen


def test_the_unmodified_cache_attends_over_everything(settings):
    inputs = make_inputs(settings)
    out = outputs(Unmodified.of(settings.geometry), inputs)
    keys, values = (torch.cat([one[i] for one in inputs], dim=2) for i in (1, 2))
    whole = (inputs[-1][0] @ keys.transpose(2, 3)).softmax(dim=-1) @ values
    assert torch.allclose(out[len(inputs) - 1, 0], whole, atol=1e-5)


def test_a_policy_that_keeps_everything_gives_the_same_attention_to_the_bit(settings, contender):
    inputs = make_inputs(settings)
    reference, full = outputs(Unmodified.of(settings.geometry), inputs), outputs(contender("full"), inputs)
    assert all(torch.equal(full[scale, place], reference[scale, 0]) for scale, place in full)


def test_keys_of_the_unmodified_cache_are_held_in_their_own_dtype(settings):
    geometry = evolve(settings.geometry, dtype=torch.bfloat16, unmodified_key_dtype=torch.float32)
    inputs = make_inputs(evolve(settings, geometry=geometry))
    cache = Unmodified.of(geometry).new_cache(NoClock())
    for q, k, v in inputs:
        assert cache.attend(0, q, k, v, softmax_scale=1.0).dtype == torch.bfloat16
    assert cache.resident_bytes() * geometry.layers == geometry.unmodified_bytes


@pytest.mark.parametrize("name", ["full", "uniform", "snapkv", "h2o", "scalekv", "ams-kv", "pyramidkv", "streaming"])
def test_every_layer_is_stood_for_once_by_one_that_holds_as_much(contender, name):
    some = contender(name, None if name == "full" else "40%")
    plan = some.planned.plan
    assert sorted(layer for run in some.layers for layer in run.stands_for) == list(range(plan.layers))
    assert all(plan.groups[layer] == plan.groups[run.layer] for run in some.layers for layer in run.stands_for)
    assert some.layers[0].stands_for == (0,)


def test_without_kinds_every_layer_runs(contender):
    assert [run.layer for run in contender("uniform", every_layer=True).layers] == list(range(5))


def test_the_released_code_holds_what_its_plan_says_and_cuts_after_the_last_scale_too(settings, contender):
    planned = contender("scalekv", "40%").planned
    cache = ReleasedCode.of(planned, every_layer=True).new_cache(NoClock())
    per_token = settings.geometry.slot_bytes * settings.geometry.rows
    held = planned.plan.held.sum(axis=(1, 2)).tolist()
    for scale, (q, k, v) in enumerate(make_inputs(settings)):
        for layer in range(settings.geometry.layers):
            cache.attend(layer, q, k, v, softmax_scale=1.0)
        last = scale == len(held) - 1
        assert cache.resident_bytes() == per_token * (held[-2] if last else held[scale])


def test_the_released_code_picks_tokens_that_are_there_once_each_and_its_window():
    q, keys = torch.randn(2, 3, 64, 8), torch.randn(2, 3, 100, 8)
    index = released_choice(q, keys, (1, 8, 8), 40)
    assert index.shape == (2, 3, 40)
    assert bool((index[..., 1:] > index[..., :-1]).all())
    assert 0 <= int(index.min())
    assert int(index.max()) < 100
    own = window_of((1, 8, 8), q.device) + 36
    assert all(set(own.tolist()) <= set(head.tolist()) for head in index.flatten(0, 1))
