"""The clock: seconds per scale and stage; without a clock nothing is measured."""

from __future__ import annotations

import time

import pytest

from scalekv_core.cache.clock import Clock, NoClock


def test_seconds_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds add up per (scale, stage), in total, and for some stages."""
    ticks = iter([0.0, 1.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    clock = Clock()
    for scale, stage in ((0, "read"), (1, "read"), (1, "select")):
        with clock.stage(scale, stage):
            pass

    assert {(0, "read"): 1.0, (1, "read"): 2.0, (1, "select"): 4.0} == dict(clock.seconds)
    assert (7.0, 3.0, 4.0, 0.0) == (
        clock.total(),
        clock.total("read"),
        clock.total("select", "store"),
        clock.total("merge"),
    )


def test_a_stage_that_fails_passes_the_error_on() -> None:
    """A stage that raises passes the error on, and its time does not count."""
    clock = Clock()
    with pytest.raises(KeyError), clock.stage(0, "read"):
        raise KeyError

    assert 0 == clock.total()


def test_no_clock_measures_nothing() -> None:
    """The empty clock measures nothing and can be entered again within itself."""
    clock = NoClock()
    with clock.stage(0, "read"), clock.stage(0, "select"):
        pass
    with pytest.raises(KeyError), clock.stage(0, "read"):
        raise KeyError

    assert 0 == clock.total()
