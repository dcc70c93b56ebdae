"""StorageTracker and PeakMeter count every storage once, for as long as it lives, however many views it has."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from scalekv_core.memory.meter import PeakMeter, StorageTracker

KIB = 1024


def floats(kib: int) -> torch.Tensor:
    return torch.zeros(kib * KIB // 4)


def test_a_storage_counts_while_it_lives() -> None:
    """Live bytes go up and down; the peak remains."""
    with StorageTracker() as tracker:
        x = floats(8)
        y = floats(4)
        assert (12 * KIB, 12 * KIB) == (tracker.live, tracker.peak)
        del x
        assert (4 * KIB, 12 * KIB) == (tracker.live, tracker.peak)
        z = floats(2)
        assert (6 * KIB, 12 * KIB) == (tracker.live, tracker.peak)
        del y, z
        assert 0 == tracker.live


def test_a_view_costs_nothing_and_keeps_everything() -> None:
    """Slices, transposes, expansions and detached tensors are the same storage."""
    with StorageTracker() as tracker:
        x = floats(8).view(2, -1)
        views = [x[0], x.T, x[:, :1].expand(-1, 1000), x.detach(), x.flatten(), x.unbind(0)[1]]
        assert 8 * KIB == tracker.live
        del x
        while len(views) > 1:
            views.pop()
            assert 8 * KIB == tracker.live
        views.pop()
        assert 0 == tracker.live


def test_what_was_there_before_is_not_counted() -> None:
    """A tensor made outside is not counted, nor are views of it or writes into it."""
    outside = floats(8)
    with StorageTracker() as tracker:
        view = outside[:10]
        outside.add_(1)
        torch.add(outside, 1, out=outside)
        outside[3:5] = view[:2]
        assert 0 == tracker.live
        copy = outside.clone()
        assert 8 * KIB == tracker.live
        del copy


def test_temporaries_count_for_the_peak() -> None:
    """The copy that torch.cat makes exists at the same time as its parts."""
    with StorageTracker() as tracker:
        joined = torch.cat([floats(4), floats(4)])
        assert (8 * KIB, 16 * KIB) == (tracker.live, tracker.peak)
        del joined


FIRST_TENSOR = """
import gc
gc.collect()
gc.disable()
import torch
from scalekv_core.memory.meter import StorageTracker

def make():
    made = torch.zeros(100)
    more = torch.zeros(100)

with StorageTracker() as tracker:
    make()
print(tracker.live)
"""


@pytest.mark.thorough
def test_the_first_tensors_of_a_process_are_freed_with_their_last_reference() -> None:
    """PyTorch imports its compiler for the first tensors; that import keeps no reference to the frames it runs in."""
    ran = subprocess.run([sys.executable, "-c", FIRST_TENSOR], capture_output=True, text=True, check=True)
    assert "0\n" == ran.stdout


def test_freed_outside_is_freed() -> None:
    """A tensor that outlives the block is no longer live once it is freed."""
    with StorageTracker() as tracker:
        x = floats(4)
    assert 4 * KIB == tracker.live
    del x
    assert 0 == tracker.live
    _ = floats(4)
    assert 0 == tracker.live, "what is made outside is not seen"


def test_a_tracker_keeps_nothing_alive() -> None:
    """The tracker holds weak references to storages, also inside reference cycles."""
    with StorageTracker() as tracker:
        cycle: dict[str, object] = {"x": floats(4)}
        cycle["self"] = cycle
        del cycle
        gc.collect()
        assert 0 == tracker.live


def test_the_same_place_in_memory_can_be_used_again() -> None:
    """Storages that are made and freed hundreds of times leave nothing behind."""
    with StorageTracker() as tracker:
        for _ in range(500):
            floats(1)
        assert (0, KIB) == (tracker.live, tracker.peak)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_in_every_mode(mode: type) -> None:
    """The tracker counts in every mode of autograd, also operations with several results."""
    with mode(), StorageTracker() as tracker:
        values, indices = floats(4).topk(10)
        assert values.nbytes + indices.nbytes == tracker.live
        q = torch.zeros(1, 2, 3, 8)
        out = F.scaled_dot_product_attention(q, q, q)
        assert out.nbytes <= tracker.live
        del values, indices, q, out
        assert 0 == tracker.live


def test_a_meter_adds_up_its_blocks() -> None:
    """Bytes that one block leaves live count in the next; bytes freed in between do not."""
    meter = PeakMeter(torch.device("cpu"))
    with meter:
        kept, gone = floats(4), floats(4)
    del gone
    with meter:
        more = floats(2)
    assert 8 * KIB == meter.peak
    with meter:
        much = floats(8)
    assert 14 * KIB == meter.peak
    del kept, more, much


def test_a_meter_survives_an_exception() -> None:
    """The exception leaves the meter as a normal exit does, and tracking stops."""
    meter = PeakMeter(torch.device("cpu"))

    def block() -> None:
        with meter:
            floats(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block()
    _ = floats(64)
    assert 4 * KIB == meter.peak
