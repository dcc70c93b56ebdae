"""A measurement takes turns between contenders, can be cut short, and describes itself."""

from __future__ import annotations

import gc
import itertools
import json
import time

import pytest
import torch
from attrs import evolve

from scalekv_core.bench import Bench, PolicyContender, ReleasedCode, Spread, Unmodified
from scalekv_core.bench.figures import as_record
from scalekv_core.bench.timing import CLOCKS
from scalekv_core.cache.clock import STAGES
from scalekv_core.errors import InputError


@pytest.fixture
def contenders(geometry, contender):
    scalekv = contender("scalekv", "40%")
    return [
        Unmodified.of(geometry),
        contender("full"),
        contender("h2o", "40%"),
        scalekv,
        ReleasedCode.of(scalekv.planned),
    ]


@pytest.fixture
def result(settings, contenders, ticking):
    return Bench(settings, contenders, notes={"profile": "assumed"}).run()


def test_everything_is_measured_as_often_as_was_asked_for(settings, result):
    scales = len(settings.geometry.schedule)
    assert result.complete
    for one in result.figures:
        assert len(one.by_scale) == len(one.ratios) == settings.repeats == one.seconds.times
        assert len(one.stages) == settings.clocked
        assert all(image.shape == (scales,) and (image > 0).all() for image in one.by_scale)
        assert len(one.scale_seconds) == scales
        assert one.memory.peak > 0
    assert result.figures[0].ratios == (1.0,) * settings.repeats


def test_stages_and_the_rest_are_all_of_the_time(result):
    for one in result.figures:
        shares = [one.share(stage).median for stage in STAGES]
        assert min(shares) >= 0
        assert sum(shares) + one.rest.median == pytest.approx(1)
    unmodified, full, h2o, scalekv, released = result.figures
    assert unmodified.selection.median == full.selection.median == 0
    assert min(one.selection.median for one in (h2o, scalekv, released)) > 0
    assert h2o.share("observe").median > 0
    assert scalekv.share("observe").median == 0


def test_the_clock_is_the_one_that_was_asked_for(settings, contenders, monkeypatch):
    assert (CLOCKS["wall"], CLOCKS["processor"]) == (time.perf_counter, time.process_time)
    monkeypatch.setitem(CLOCKS, "wall", itertools.count(0, 1000).__next__)
    monkeypatch.setitem(CLOCKS, "processor", itertools.count(0, 1).__next__)
    by = {
        clock: Bench(evolve(settings, clock=clock, repeats=1), contenders[:1]).run() for clock in ("wall", "processor")
    }
    wall, processor = (by[clock].figures[0] for clock in ("wall", "processor"))
    assert wall.seconds.median == 1000 * processor.seconds.median > 0
    assert wall.stages[0]["all"] == 1000 * processor.stages[0]["all"] > 0
    assert wall.rest.median == pytest.approx(processor.rest.median)


def test_an_image_that_is_too_short_for_the_clock_has_no_ratio_and_no_shares(settings, contenders, monkeypatch):
    """Ratio and shares are null, never NaN or infinity, and the record says why."""
    monkeypatch.setitem(CLOCKS, "processor", lambda: 5.0)
    result = Bench(evolve(settings, clock="processor"), contenders[:2]).run()
    record = json.loads(json.dumps(as_record(result), allow_nan=False))["contenders"]["full"]
    assert record["seconds"]["median"] == 0
    assert (record["ratio"], record["selection"]) == (None, None)
    assert set(record["null"]) == {"ratio", "selection"}
    assert record["null"]["selection"] == "every image took less time than the clock can measure"
    assert result.figures[1].rest is None


def test_contenders_take_turns_and_the_first_of_a_round_is_the_last_of_the_next(settings, contenders):
    told = []
    running = Bench(evolve(settings, repeats=2, clocked=0), contenders[:3])
    running.run(told.append)
    names = [text.split(": ")[1] for text in told]
    assert names == ["unmodified", "full", "h2o", "full", "h2o", "unmodified", "h2o", "unmodified", "full"]
    assert len(told) == running.images


def test_what_was_measured_before_an_interruption_is_there(settings, contenders):
    running = Bench(settings, contenders)
    left = iter(range(len(contenders) + 3))

    def interrupt(_):
        if next(left, None) is None:
            raise KeyboardInterrupt

    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        running.run(interrupt)
    result = running.result()
    assert not result.complete
    assert [len(one.by_scale) for one in result.figures] == [0, 1, 1, 1, 0]
    assert all(one.memory is not None and one.ratio is None for one in result.figures)
    assert result.figures[0].seconds is None
    assert result.figures[1].seconds is not None
    assert torch.get_num_threads() == threads
    assert gc.isenabled()
    json.dumps(as_record(result), allow_nan=False)


def test_layers_that_stand_for_others_count_as_often(settings, contender, ticking):
    some = contender("uniform", "40%")
    twice = evolve(some, layers=tuple(evolve(run, stands_for=run.stands_for * 1000) for run in some.layers))
    one, many = (Bench(evolve(settings, clocked=1), [c]).run().figures[0] for c in (some, twice))
    assert many.seconds.least > 10 * one.seconds.most
    assert sum(many.stages[0].values()) > 10 * sum(one.stages[0].values())


def test_a_record_holds_settings_versions_and_all_figures(settings, result):
    record = json.loads(json.dumps(as_record(result, versions={"torch": "x"}), allow_nan=False))
    assert record["settings"]["maps"] == "1x1 2x2 3x3 4x6 6x6 8x8"
    assert record["settings"]["profile"] == "assumed"
    assert record["complete"] is True
    assert record["versions"] == {"torch": "x"}
    scalekv = record["contenders"]["scalekv"]
    assert scalekv["budget"] == "40% of history"
    assert "window=16" in scalekv["parts"]["selector"]
    assert sorted(n for run in scalekv["layers_run"] for n in run["stands_for"]) == [0, 1, 2, 3, 4]
    assert len(scalekv["images"]) == settings.repeats
    assert scalekv["bytes"]["peak"] >= scalekv["bytes"]["resident"]


def test_contenders_of_one_name_or_another_geometry_are_refused(settings, contender):
    some = contender("uniform", "40%")
    with pytest.raises(InputError, match="'uniform' is there twice"):
        Bench(settings, [some, some])
    with pytest.raises(InputError, match="another geometry"):
        Bench(evolve(settings, geometry=evolve(settings.geometry, rows=1)), [some])


def test_a_spread_of_nothing_is_none():
    assert Spread.of([]) is None
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)


def test_the_bench_needs_no_policy_of_the_shelf(settings, geometry):
    from scalekv_core.contracts.defaults import Drop
    from scalekv_core.contracts.plan import CachePlan
    from scalekv_core.contracts.policy import Policy
    from scalekv_core.contracts.strategies import BudgetAllocator, ScoringSelector
    from scalekv_core.planning.planner import plan_policy

    class Half(BudgetAllocator):
        def allocate(self, geometry, roles, slots):
            capacity = [-(-n // 2) for n in geometry.schedule.keepable()]
            capacity = torch.tensor(capacity)[:, None, None].expand(-1, geometry.layers, geometry.heads)
            return CachePlan(geometry.schedule, capacity.numpy())

    class First(ScoringSelector):
        def score(self, view, keep):
            return -view.positions.float()

    policy = Policy(name="half", allocator=Half(), selector=First(), merger=Drop(), budget="75%")
    some = PolicyContender.of(plan_policy(policy, geometry))
    result = Bench(settings, [Unmodified.of(geometry), some]).run()
    assert result.complete
    assert result.figures[1].memory.planned == result.figures[1].memory.resident
