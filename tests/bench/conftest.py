"""A small attention and contenders for the bench's tests. No test depends on how long something takes."""

from __future__ import annotations

import itertools

import pytest

from scalekv_core.bench import BenchSettings, PolicyContender, assumed_profile, default_drafters, parse_maps
from scalekv_core.bench.timing import CLOCKS
from scalekv_core.planning.planner import plan_policy
from scalekv_core.plugins.registry import shared_registry
from scalekv_core.shapes.geometry import CacheGeometry


@pytest.fixture
def ticking(monkeypatch):
    """A clock that advances by one second at each reading."""
    monkeypatch.setitem(CLOCKS, "wall", itertools.count(1.0).__next__)


@pytest.fixture(scope="session")
def geometry() -> CacheGeometry:
    return CacheGeometry(schedule=parse_maps("1,2,3,4x6,6,8"), layers=5, heads=3, head_dim=8, rows=2)


@pytest.fixture(scope="session")
def settings(geometry):
    return BenchSettings(geometry=geometry, threads=1, repeats=2, clocked=1)


@pytest.fixture(scope="session")
def contender(geometry):
    """name, budget, every_layer -> a contender under that policy; profiles are assumed."""

    def make(name, budget=None, *, every_layer=False, geometry=geometry):
        policy = shared_registry().policy(name)
        profile = assumed_profile(geometry, default_drafters(geometry.layers))
        planned = plan_policy(policy, geometry, budget=budget, profile=profile)
        return PolicyContender.of(planned, every_layer=every_layer)

    return make
