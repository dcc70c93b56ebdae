"""Prefetched histories: no buffer is overwritten while it is read, and none is read before it is filled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalekv_core import CacheGeometry, CachePlan, KVCache, ScaleSchedule
from scalekv_core.cache.prefetch import CudaCopyStream, copy_stream_for, reads_ahead
from scalekv_core.contracts.defaults import Dense
from scalekv_core.planning.footprint import footprint
from scalekv_core.planning.planner import plan_policy
from scalekv_policies import Host, Int8, UniformSelector, uniform
from tests.plain import Case, HashScores, cases, drive, policy_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SCHEDULE = ScaleSchedule.square(1, 2, 3, 4)
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=3, heads=2, head_dim=4, rows=2)
HELD = np.array([[[1, 1], [1, 1], [1, 1]], [[3, 3], [5, 2], [4, 4]], [[6, 6], [9, 3], [4, 4]], [[0, 0]] * 3])
CASE = Case(CachePlan(SCHEDULE, HELD), GEOMETRY)
MOMENTS = ["at once", "in the middle", "at the last moment"]


@frozen
class Elsewhere(Int8):
    """A codec whose codes are in the host's memory."""

    leaves_device = True


class FakeCopyStream:
    """A stream whose copies run at a chosen moment between what they wait for and what waits for them.

    A real one copies at any time after `copy` and is done when `wait` is over: at once is the earliest, when the buffer may
    still be read; the last moment is the latest, when it may be read already.
    """

    def __init__(self, moment: str) -> None:
        self.moment = moment
        self.waiting: list[Callable[[], None]] = []
        self.copied = 0

    def copy(self, work: Callable[[], None]) -> None:
        self.waiting.append(work)
        if self.moment == "at once":
            self.go()

    def wait(self) -> None:
        self.go()

    def go(self) -> None:
        for work in self.waiting:
            work()
        self.copied += len(self.waiting)
        self.waiting.clear()

    def observe(self, *seen: object) -> None:
        """Runs between attention and eviction, while the group's own buffers are still to be read."""
        if self.moment == "in the middle":
            self.go()


def drawn(case: Case, stream: FakeCopyStream | None, codec: Host | Elsewhere) -> tuple[list[list[Tensor]], KVCache]:
    policy = policy_of(HashScores(by_value=False), codec=codec)
    if stream is None:
        cache = KVCache(case.plan, policy, check=True)
    else:
        cache = KVCache(case.plan, policy, check=True, observer=stream.observe, copy_stream_of={CPU: stream}.get)
    return drive(case, cache), cache


def same(mine: list[list[Tensor]], theirs: list[list[Tensor]]) -> bool:
    return all(torch.equal(x, y) for a, b in zip(mine, theirs, strict=True) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("moment", MOMENTS)
@given(case=cases(), codec=st.sampled_from([Host(), Elsewhere()]))
def test_it_matters_to_nobody_when_a_copy_happens(moment: str, case: Case, codec: Host | Elsewhere) -> None:
    """Under any plan outputs are bit-equal to those without a stream, the same is held, and scratch is as planned."""
    stream = FakeCopyStream(moment)
    plain, on_cpu = drawn(case, None, codec)
    ahead, cache = drawn(case, stream, codec)
    planned = [footprint(case.plan, cache.policy, case.geometry, ahead=ahead) for ahead in (False, True)]

    assert same(plain, ahead)
    assert on_cpu.resident == cache.resident == list(planned[1].planned)
    assert [one.scratch for one in planned] == [on_cpu.scratch_bytes, cache.scratch_bytes]
    assert not stream.waiting


def test_every_history_comes_ahead() -> None:
    """The history of every group of every layer is prefetched at all scales but the first, with two buffers."""
    stream = FakeCopyStream("at the last moment")
    _, cache = drawn(CASE, stream, Host())

    assert 4 * 3 == stream.copied  # three layers, one of them in two groups, have a history at three scales
    assert 2 * footprint(CASE.plan, cache.policy, GEOMETRY).scratch == cache.scratch_bytes


@pytest.mark.parametrize("moment", MOMENTS)
def test_layers_in_another_order_are_served_too(moment: str) -> None:
    """A prefetched history that is not the next to be read is ignored."""
    outputs = []
    for stream in (None, FakeCopyStream(moment)):
        policy = policy_of(HashScores(by_value=False), codec=Host())
        cache = KVCache(CASE.plan, policy, copy_stream_of={CPU: stream}.get)
        outputs.append([])
        for scale, order in enumerate(((0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1))):
            maps = list(CASE.maps(scale))
            outputs[-1].append([cache.attend(la, *maps[la], softmax_scale=CASE.softmax_scale) for la in order])
    assert same(*outputs)


def test_a_history_on_another_device_is_not_sent_for() -> None:
    """In a model on several devices each history goes to its layer's device."""
    policy, stream = policy_of(UniformSelector(), codec=Host()), FakeCopyStream("at once")
    plain = drive(CASE, KVCache(CASE.plan, policy))
    cache = KVCache(CASE.plan, policy, copy_stream_of={CPU: stream}.get)
    spread = [
        tuple(x.to(device) for x in layer) for layer, device in zip(CASE.tensors, ("cpu", "meta", "cpu"), strict=True)
    ]
    outputs = drive(CASE, cache, spread)
    assert all(
        torch.equal(mine[layer], theirs[layer]) for mine, theirs in zip(outputs, plain, strict=True) for layer in (0, 2)
    )
    assert 3 == stream.copied  # from the last layer to the first, at every scale but the first


def test_a_cache_that_is_closed_waits_for_its_copies() -> None:
    """close frees memory after all copies into it are done."""
    stream = FakeCopyStream("at the last moment")
    cache = KVCache(CASE.plan, policy_of(HashScores(), codec=Host()), copy_stream_of={CPU: stream}.get)
    drive(CASE, cache, scales=2)
    assert stream.waiting
    cache.close()
    assert ([], 0) == (stream.waiting, cache.scratch_bytes)


class FakeStream:
    """A stream that records what waits for what."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self.log.append(f"on {self.name}:")
        yield
        self.log.append(f"{self.name} left")


def test_streams_wait_for_each_other() -> None:
    """A copy waits for the device's earlier work, and the device's later work waits for the copy."""
    log: list[str] = []
    copies, work = FakeStream("copies", log), FakeStream("work", log)
    stream = CudaCopyStream(copies, lambda: work, FakeStream.current)
    stream.copy(lambda: log.append("copy"))
    log.append("attention")
    stream.wait()

    assert ["copies waits for work", "on copies:", "copy", "copies left", "attention", "work waits for copies"] == log


def test_only_what_leaves_a_device_comes_back_ahead() -> None:
    """On a CPU, and under codecs that store on the device, there is no stream and no second buffer."""
    assert [True, False, False] == [reads_ahead(*one) for one in ((Host(), CUDA), (Host(), CPU), (Dense(), CUDA))]
    assert copy_stream_for(Host(), CPU) is copy_stream_for(Dense(), CUDA) is None


def test_a_plan_counts_the_second_buffer_where_there_is_one() -> None:
    """The plan counts the second buffer as scratch; a cache of one head group has none."""
    policy = evolve(uniform(), codec=Host())
    here, there = (plan_policy(policy, GEOMETRY, budget="50%", ahead=ahead).footprint for ahead in (False, True))
    alone = CacheGeometry(schedule=SCHEDULE, layers=1, heads=2, head_dim=4)

    assert (here.planned, 2 * here.scratch) == (there.planned, there.scratch)
    assert 1 == len(
        {plan_policy(policy, alone, budget="50%", ahead=ahead).footprint.scratch for ahead in (False, True)}
    )
