"""The peak is computed from the layers that ran; it equals the peak of all layers and an independent count."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from scalekv_core.bench import AttentionAlone, Unmodified, make_inputs, measure_memory
from scalekv_core.bench.peak import Ledger
from scalekv_core.cache.clock import NoClock
from scalekv_core.memory.meter import ProcessPeak, StorageTracker

CPU = torch.device("cpu")
POLICIES = [
    ("full", None),
    ("uniform", "40%"),
    ("snapkv", "40%"),
    ("h2o", "40%"),
    ("scalekv", "40%"),
    ("ams-kv", "40%"),
]


@pytest.mark.parametrize(("name", "budget"), POLICIES)
def test_planned_resident_and_scratch_are_as_promised(settings, contender, name, budget):
    some = contender(name, budget)
    figures = measure_memory(some, AttentionAlone(make_inputs(settings)), CPU)
    assert figures.planned == figures.resident == some.planned.footprint.most_planned
    assert figures.scratch == some.planned.footprint.scratch
    assert figures.peak >= figures.resident


@pytest.mark.parametrize(("name", "budget"), POLICIES)
def test_the_peak_of_some_layers_is_that_of_all(settings, contender, name, budget):
    inputs = AttentionAlone(make_inputs(settings))
    of_all = measure_memory(contender(name, budget, every_layer=True), inputs, CPU)
    of_some = measure_memory(contender(name, budget), inputs, CPU)
    # The first cut of an image is checked, which takes a few numbers more: on whichever layer that falls.
    assert of_some.peak == pytest.approx(of_all.peak, abs=64)


@pytest.mark.parametrize(("name", "budget"), POLICIES)
def test_the_peak_is_that_of_a_plain_tracker_without_what_goes_out(settings, contender, name, budget):
    some, inputs = contender(name, budget, every_layer=True), AttentionAlone(make_inputs(settings))
    tracker, outgoing = StorageTracker(), 0

    def around(scale, place, call):
        nonlocal outgoing
        with tracker:
            out = call()
        outgoing = max(outgoing, out.untyped_storage().nbytes())

    inputs.draw(some, some.new_cache(NoClock()), around)
    assert tracker.peak - outgoing <= measure_memory(some, inputs, CPU).peak <= tracker.peak


def test_the_unmodified_cache_holds_every_map_and_copies_one_layer(settings):
    geometry = settings.geometry
    figures = measure_memory(Unmodified.of(geometry), AttentionAlone(make_inputs(settings)), CPU)
    before, after = geometry.schedule.last_history, geometry.schedule.total
    token = geometry.token_bytes // geometry.layers
    assert figures.planned is None
    assert figures.over_plan is None
    assert figures.scratch == 0
    assert figures.resident == geometry.unmodified_bytes == geometry.layers * after * token
    # In the last layer the old keys and values live until both new ones are there.
    least = (geometry.layers - 1) * after * token + after * token
    assert least <= figures.peak <= least + before * token


def test_a_ledger_leaves_out_one_storage():
    with (ledger := Ledger()):
        x = torch.zeros(100)
    ledger.mark()
    with ledger:
        y = torch.zeros(10)
        z = torch.zeros(1000)
        del y
        y = torch.zeros(5)
    assert ledger.most(without=z) == 40
    assert ledger.most(without=y) == 4040
    assert ledger.most(without=x) == 4040


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is counted by Linux")
def test_the_process_peak_is_that_of_the_block_alone():
    size = 2**26
    touch(4 * size)  # before the block: not its business
    with ProcessPeak(CPU) as outer:
        touch(size)
    with ProcessPeak(CPU) as after:
        pass
    assert size * 0.9 <= outer.bytes - after.bytes <= size * 1.1


def touch(size):
    """Allocates so many bytes and frees them, past what an allocator might have cached."""
    with mmap.mmap(-1, size) as pages:
        for page in range(0, size, mmap.PAGESIZE):
            pages[page] = 1


def test_a_measurement_says_what_the_whole_process_took(settings, contender):
    some = contender("uniform", "40%")
    figures = measure_memory(some, AttentionAlone(make_inputs(settings)), CPU)
    assert figures.process is None or figures.process > figures.peak
