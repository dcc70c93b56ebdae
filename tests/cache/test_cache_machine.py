"""A machine that uses one cache as clumsily as it can: interrupts, resets, other batches and other schedules."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from scalekv_core import CacheView, KVCache, SessionError, footprint
from tests.plain import Case, PlainCache, Sums, cases, plain_attention, policy_of


class Interrupt(KeyboardInterrupt):
    """Control-C, at a moment that the machine chooses."""


class CacheMachine(RuleBasedStateMachine):
    """The cache and the plain model side by side; after every step they hold the same."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupt = False

    @initialize(case=cases())
    def new(self, case: Case) -> None:
        self.begin_plan(case)

    def begin_plan(self, case: Case) -> None:
        """A cache of this case's plan, and nothing drawn."""
        self.case, self.policy = case, policy_of(Sums())
        self.cache = KVCache(case.plan, self.policy, check=True, observer=self.observe)
        self.begin_image()

    def begin_image(self) -> None:
        """Nothing drawn under this plan."""
        self.plain, self.scale, self.layer = PlainCache(self.case), 0, 0
        self.tokens = self.plain.append(0)

    def observe(self, view: CacheView, kept: Tensor | None) -> None:
        if self.interrupt:
            raise Interrupt

    @property
    def drawing(self) -> bool:
        """Whether the image has maps left."""
        return self.scale < len(self.case.schedule)

    @precondition(lambda self: self.drawing)
    @rule()
    def attend(self) -> None:
        """The next layer, of the next map after the last layer: attention over what the plain model holds."""
        q, k, v = self.case.maps(self.scale)[self.layer]
        out = self.cache.attend(self.layer, q, k, v, softmax_scale=1.0)
        whole = self.case.tensors[self.layer]
        for (layer, row, head), held in self.tokens.items():
            if layer == self.layer:
                at = [token.position for token in held]
                expected = plain_attention(q[row, head], whole[1][row, head, at], whole[2][row, head, at], 1.0)
                torch.testing.assert_close(out[row, head].double(), expected, rtol=2e-5, atol=2e-6)
        self.layer += 1
        if self.layer == self.case.geometry.layers:
            self.plain.cut(self.scale, self.tokens)
            self.scale, self.layer = self.scale + 1, 0
            if self.drawing:
                self.tokens = self.plain.append(self.scale)

    @precondition(lambda self: self.drawing)
    @rule()
    def interrupted(self) -> None:
        """Control-C in the middle of attention: the image is lost, the cache is not."""
        self.interrupt = True
        try:
            self.cache.attend(self.layer, *self.case.maps(self.scale)[self.layer], softmax_scale=1.0)
        except Interrupt:
            self.begin_image()
        finally:
            self.interrupt = False

    @precondition(lambda self: self.case.geometry.layers > 1 and self.layer > 0)
    @rule()
    def the_same_layer_twice(self) -> None:
        """A refused call changes nothing, unless the next map happens to have the same shape."""
        tokens = self.case.schedule.tokens
        if self.scale + 1 < len(tokens) and tokens[self.scale] == tokens[self.scale + 1]:
            return
        before = self.cache.resident_bytes()
        try:
            self.cache.attend(self.layer - 1, *self.case.maps(self.scale)[self.layer - 1], softmax_scale=1.0)
        except SessionError:
            assert before == self.cache.resident_bytes()
        else:
            raise AssertionError("a layer was given the same map twice")

    @rule(rows=st.integers(1, 3), dtype=st.sampled_from([torch.float32, torch.float64]))
    def close_and_change_the_batch(self, rows: int, dtype: torch.dtype) -> None:
        """The next image has other rows and another dtype under the same plan."""
        self.cache.close()
        g = self.case.geometry
        changed = type(g)(
            schedule=g.schedule, layers=g.layers, heads=g.heads, head_dim=g.head_dim, rows=rows, dtype=dtype
        )
        self.case = Case(self.case.plan, changed, seed=self.case.seed + 1)
        self.begin_image()

    @rule(case=cases())
    def another_schedule(self, case: Case) -> None:
        """The old cache is closed and a new one of another plan takes its place."""
        self.cache.close()
        self.begin_plan(case)

    @invariant()
    def bytes_are_planned(self) -> None:
        """Between scales: exactly the plan; in the middle of one: each layer what it holds."""
        if not hasattr(self, "cache"):
            return
        if self.layer == 0:
            planned = (0, *footprint(self.case.plan, self.policy, self.case.geometry).planned)
            assert planned[self.scale] == self.cache.resident_bytes()
        assert self.cache.complete == (not self.drawing)

    @invariant()
    def every_head_holds_what_it_may(self) -> None:
        """Layer by layer, also in the middle of a scale."""
        if not hasattr(self, "cache"):
            return
        for layer in range(self.case.geometry.layers):
            done = self.scale + (layer < self.layer)
            held = self.case.plan.held[done - 1, layer].tolist() if done else [0] * self.case.geometry.heads
            assert held == self.cache.held_tokens(layer)


TestCacheMachine = CacheMachine.TestCase
