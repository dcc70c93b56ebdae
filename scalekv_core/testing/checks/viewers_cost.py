"""Checks the cost of selectors and mergers: memory beside the cache, time, and waits for the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import evolve
from torch import Tensor
from torch.overrides import TorchFunctionMode

from scalekv_core.contracts.view import AttentionMasses
from scalekv_core.memory.meter import StorageTracker
from scalekv_core.testing.cases import ViewCase
from scalekv_core.testing.checks.asking import Viewer, answer, by_halves, mapped, view_of
from scalekv_core.testing.common import Blocked, NotApplicable
from scalekv_core.testing.real_sizes import VAR_256

Make = Callable[[], Viewer]
LONG = ViewCase.parse("maps=1x1,64x64,64x64,8x8,1x1 scale=3 held=8193 keep=64 heads=2 width=64 device=meta")
"""Many cached tokens beside a small map that keeps few: what is quadratic in the tokens shows."""
TIMED = ViewCase(maps=VAR_256, scale=8, held=255, keep=64, rows=2, heads=8, width=64)
SECONDS = 1.0
"""Processor time within which the answer to :data:`TIMED` comes; attention over the same view takes a hundredth."""


def check_stays_on_the_device(make: Make, case: ViewCase) -> None:
    """It never asks what a tensor holds and makes no tensor elsewhere, so that the host need not wait for the device."""
    nowhere = mapped(view_of(make(), case), lambda x: x.to("meta"))
    try:
        with _generators_on_meta():
            answers = answer(make(), case, nowhere)
    except NotApplicable:
        raise
    except Exception as error:
        answer(make(), case, view_of(make(), case))  # what fails everywhere is no matter of devices
        raise AssertionError(
            "on tensors without values (device meta) it fails: it asks what a tensor holds, which makes the host wait, "
            f"or makes tensors on another device ({type(error).__name__}: {error})"
        ) from error
    for x in answers:
        assert x.device.type == "meta", f"its answer to tensors on device meta is on {x.device}"


class _WithoutGenerators(TorchFunctionMode):
    """Random numbers on the meta device, which knows no generators, are made without one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device") or next((x.device for x in args if isinstance(x, Tensor)), "cpu")
        if torch.device(device).type == "meta":
            kwargs.pop("generator", None)
        return func(*args, **kwargs)


@contextlib.contextmanager
def _generators_on_meta() -> Iterator[None]:
    """A block in which a strategy may use a generator of its own on whatever device its view is."""
    own = torch.Generator

    class OnCpu(own):  # type: ignore[misc,valid-type]  # a class, since whatever is imported meanwhile may want one
        def __new__(cls, device: Any = "cpu") -> Any:
            return own.__new__(own, "cpu" if torch.device(device).type == "meta" else device)  # type: ignore[call-arg]

    torch.Generator = OnCpu  # type: ignore[misc]
    try:
        with torch.random.fork_rng(devices=[]), _WithoutGenerators():
            yield
    finally:
        torch.Generator = own  # type: ignore[misc]


def check_memory_is_linear(make: Make) -> None:
    """Temporary memory grows with the cached tokens, not with their square: at 1024 x 1024 there are 6,425 in each head."""
    strategy, case = make(), LONG
    view = mapped(evolve(case, device="cpu", width=1).view(), lambda x: x.to("meta"))
    k = torch.empty(*view.k.shape[:3], case.width, device="meta")
    statistics = {name: torch.empty(k.shape[:3], device="meta") for name in getattr(strategy, "statistics", ())}
    view = evolve(view, q=k[:, :, : view.current], k=k, v=torch.empty_like(k), statistics=statistics)
    try:
        with _generators_on_meta(), StorageTracker() as tracker:
            answer(strategy, case, view)
            by_halves(strategy, case, view)
    except NotApplicable:
        raise
    except Exception as error:
        raise Blocked("stays_on_the_device", str(error)) from error
    linear = case.heads * case.tokens * (view.current + case.keep + case.width)
    most = 24 * linear + 2**24
    square = case.heads * case.tokens**2
    assert tracker.peak <= most, (
        f"with {case.tokens} cached tokens it takes {tracker.peak / 2**20:.0f} MiB at once; "
        f"a number for every pair of tokens is {4 * square / 2**20:.0f} MiB, what is linear at most {most / 2**20:.0f}"
    )


def check_is_quick(make: Make) -> None:
    """At the size of a published model it answers within a second: it is asked some hundred times for each image."""
    strategy = make()
    view = view_of(strategy, TIMED)
    taken = []
    for _ in range(2):
        start = time.thread_time()
        answer(strategy, TIMED, evolve(view, masses=AttentionMasses()))
        taken.append(time.thread_time() - start)
    assert min(taken) <= SECONDS, (
        f"it takes {min(taken):.1f} s for {TIMED.tokens} tokens in {TIMED.heads} heads of {TIMED.rows} rows; "
        f"at most {SECONDS:g} s"
    )
