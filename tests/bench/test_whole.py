"""A whole transformer in the bench: it runs the model's own loop with any cache."""

from __future__ import annotations

import json

import pytest
import torch
from attrs import evolve

from scalekv_core.bench import (
    Bench,
    BenchSettings,
    PolicyContender,
    ReleasedCode,
    Unmodified,
    WholeTransformer,
    check_bench_fits,
    needed_bytes,
)
from scalekv_core.bench.figures import as_record
from scalekv_core.bench.fit import cache_bytes
from scalekv_core.cache.clock import NoClock
from scalekv_core.errors import InputError
from scalekv_core.memory.batch import Batch
from scalekv_core.memory.meter import StorageTracker
from scalekv_core.planning.planner import plan_policy
from scalekv_core.plugins.registry import Registry
from scalekv_core.testing import toy

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("ticking")


@pytest.fixture
def batch():
    return Batch(model="toy", card=toy.ToyCard(), images=2)


@pytest.fixture
def settings(batch):
    return BenchSettings(geometry=batch.geometry, threads=1, repeats=2, clocked=1, whole=batch)


@pytest.fixture
def latest(batch):
    return PolicyContender.of(plan_policy(Registry.of(toy).policy("toy-latest"), batch.geometry))


@pytest.fixture
def contenders(batch, latest):
    return [Unmodified.of(batch.geometry), latest, ReleasedCode.of(latest.planned)]


def drawn(batch, contender, *, layers=False):
    """The calls that ``around`` received, [(scale, place)], in order."""
    asked = []

    def around(scale, place, call):
        asked.append((scale, place))
        return call()

    subject = WholeTransformer(batch, CPU)
    draw = subject.draw_layers if layers else subject.draw
    draw(contender, contender.new_cache(NoClock()), around)
    return asked


def test_every_layer_attends_once_a_scale(batch, latest):
    places = len(latest.layers)
    assert drawn(batch, latest) == [(scale, place) for scale in range(4) for place in range(places)]


def test_layers_are_within_their_scale(batch, latest):
    places = range(len(latest.layers))
    asked = drawn(batch, latest, layers=True)
    assert asked == [(scale, place) for scale in range(4) for place in (-1, *places)]


def test_everything_is_measured(settings, contenders):
    result = Bench(settings, contenders).run()
    assert result.complete
    for one in result.figures:
        assert all(image.shape == (4,) and (image > 0).all() for image in one.by_scale)
        assert one.rest.median > 0
    unmodified, latest, _ = result.figures
    assert latest.memory.planned == latest.memory.resident
    assert unmodified.memory.resident == settings.geometry.unmodified_bytes
    record = json.loads(json.dumps(as_record(result), allow_nan=False))
    assert record["settings"]["measured"] == "whole transformer of toy"
    assert record["settings"]["head_scales"] is None


def test_what_is_beside_the_layers_counts_once_and_layers_as_often_as_they_stand_for_others(settings, contenders):
    twice = [evolve(run, stands_for=run.stands_for * 1000) for run in contenders[0].layers]
    many = evolve(contenders[0], layers=tuple(twice))
    one, other = (Bench(settings, [c]).run().figures[0] for c in (contenders[0], many))
    assert other.seconds.least > 10 * one.seconds.most
    assert other.rest.median < one.rest.median


def test_the_released_code_projects_every_input_once_more(batch, contenders):
    """Each weight of a layer is multiplied as often as before, and once more."""
    unmodified, _, released = contenders
    seen = []

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.linear and args[1].shape == (96, 32):
                seen.append(len(args) > 2 and args[2] is not None)
            return func(*args, **(kwargs or {}))

    counts = []
    for contender in (unmodified, released):
        seen.clear()
        with Counting():
            drawn(batch, contender)
        counts.append((seen.count(True), seen.count(False)))
    assert counts == [(4, 0), (4, 4)]


def test_a_model_is_as_it_was_afterwards(batch, contenders):
    subject = WholeTransformer(batch, CPU)
    model = subject._model(1)
    before = [set(vars(module)) for part in model.parts.values() for module in part.modules()]
    subject.draw_layers(contenders[2], contenders[2].new_cache(NoClock()), lambda scale, place, call: call())
    assert [set(vars(module)) for part in model.parts.values() for module in part.modules()] == before
    assert not any(module._forward_pre_hooks for part in model.parts.values() for module in part.modules())


def test_a_failure_leaves_the_model_as_it_was(batch, latest):
    subject = WholeTransformer(batch, CPU)

    def fail(scale, place, call):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        subject.draw(latest, latest.new_cache(NoClock()), fail)
    assert all("forward" not in vars(block) for block in subject._model(len(latest.layers)).blocks)


def test_what_takes_more_than_there_is_is_refused_with_what_takes_it(settings, contenders):
    needed = needed_bytes(settings, contenders)
    assert set(needed) == {"weights", "activations", "largest cache"}
    check_bench_fits(settings, contenders, available=sum(needed.values()))
    with pytest.raises(
        InputError, match=r"on cpu needs .* \(weights .*, activations .*, largest cache .*\), and .* are free"
    ):
        check_bench_fits(settings, contenders, available=sum(needed.values()) - 1)
    alone = needed_bytes(evolve(settings, whole=None), contenders)
    assert set(alone) == {"queries, keys and values", "largest cache"}


def test_the_largest_cache_is_that_of_a_tracker(batch, contenders):
    """The output of the call counts for the model, not for the cache."""
    for contender in contenders:
        subject, tracker, out = WholeTransformer(batch, CPU), StorageTracker(), 0

        def around(scale, place, call, tracker=tracker):
            nonlocal out
            with tracker:
                made = call()
            out = max(out, made.untyped_storage().nbytes())
            return made

        subject.draw(contender, contender.new_cache(NoClock()), around)
        assert tracker.peak - 4 * out <= cache_bytes(contender) <= 1.6 * tracker.peak
