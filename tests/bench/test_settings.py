from __future__ import annotations

import numpy as np
import pytest
import torch
from attrs import evolve

from scalekv_core.bench import BenchSettings, assumed_profile, default_drafters, make_inputs, parse_maps
from scalekv_core.errors import InputError
from scalekv_core.planning.planner import classify
from scalekv_core.plugins.registry import shared_registry


def test_maps_are_squares_or_sizes():
    assert parse_maps("1, 2,3x4,2x3x4").maps == ((1, 1, 1), (1, 2, 2), (1, 3, 4), (2, 3, 4))


@pytest.mark.parametrize("text", ["", "1,,2", "a", "1x", "1x2x3x4", "-1", "0", "1;2"])
def test_maps_that_are_none_are_refused(text):
    with pytest.raises(InputError):
        parse_maps(text)


def test_queries_keys_and_values_are_as_a_projection_hands_them_over(settings):
    geometry = settings.geometry
    for tokens, (q, k, v) in zip(geometry.schedule.tokens, make_inputs(settings), strict=True):
        shape = (geometry.rows, geometry.heads, tokens, geometry.head_dim)
        assert q.shape == k.shape == v.shape == shape
        assert q.dtype == k.dtype == v.dtype == geometry.dtype
        assert not v.is_contiguous()
        assert tokens == 1 or not q.is_contiguous()
        assert torch.allclose(k.norm(dim=-1), torch.ones(shape[:3]))
        lengths = q.norm(dim=-1)
        assert torch.allclose(lengths[:, 0], torch.tensor(4.0))
        assert torch.allclose(lengths[:, -1], torch.tensor(30.0))


def test_the_same_seed_gives_the_same_inputs(settings):
    first, second = make_inputs(settings), make_inputs(settings)
    other = make_inputs(evolve(settings, seed=1))
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
    assert not torch.equal(first[-1][0], other[-1][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_have_the_dtype_of_attention(settings, dtype):
    low = evolve(settings, geometry=evolve(settings.geometry, dtype=dtype))
    assert {x.dtype for one in make_inputs(low) for x in one} == {dtype}


def test_the_stated_profile_makes_drafters_of_the_layers_that_were_stated(geometry):
    wide = evolve(geometry, layers=32)
    profile = assumed_profile(wide, default_drafters(32))
    profile.check_fits(wide)
    assert np.allclose(profile.mass.sum(axis=-1), 1)
    roles = classify(shared_registry().policy("scalekv"), wide, profile)
    drafters = roles.is_role("drafter").all(axis=2)
    assert [sorted(set(np.flatnonzero(row))) for row in drafters[1:]] == [[0, 16]] * (len(drafters) - 1)


def test_a_drafter_that_is_no_layer_is_refused(geometry):
    with pytest.raises(InputError, match="layer 7 cannot be a drafter: the model has layers 0 to 4"):
        assumed_profile(geometry, [0, 7])


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"threads": 0}, {"clocked": -1}, {"head_scales": (3.0, 1.0)}])
def test_settings_that_cannot_be_meant_are_refused(geometry, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BenchSettings(geometry=geometry, **wrong)


def test_the_processors_time_is_that_of_a_cpu(settings):
    assert evolve(settings, clock="processor").as_dict()["clock"] == "processor"
    with pytest.raises(InputError, match="measures a CPU, not cuda"):
        evolve(settings, clock="processor", device="cuda")
    with pytest.raises(ValueError, match="clock"):
        evolve(settings, clock="sun")


@pytest.mark.parametrize("scales", [(0.0, 1.0), (3.0, 2.0), (1.0, 2.0, 3.0)])
def test_factors_of_heads_ascend_from_above_0(settings, scales):
    """Others would turn attention round, or leave it without a largest."""
    with pytest.raises(InputError, match="'head_scales' are the least and the greatest, above 0"):
        evolve(settings, head_scales=scales)
