"""A state machine that calls the cache under one policy in any order, and compares it with plain lists of tokens.

Maps are appended layer by layer and compressed as they come; images are broken off from outside and from inside, and
followed by others of another batch or schedule. After every step the cache holds what the lists say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from attrs import evolve
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.view import CacheView
from scalekv_core.testing.cases import ImageCase
from scalekv_core.testing.common import NotApplicable, same_bits
from scalekv_core.testing.images import Image
from scalekv_core.testing.strategies import content_kinds, dtypes, image_cases, seeds
from scalekv_core.testing.trying import only_for_of


class Interrupt(KeyboardInterrupt):
    """Ctrl-C, at a moment that the machine chooses."""


class CacheMachine(RuleBasedStateMachine):
    """The cache under ``policy``, and {(layer, row, head): positions} beside it."""

    policy: ClassVar[Policy]
    cases: ClassVar[st.SearchStrategy[ImageCase]]

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[int, int, int], list[int]] = {}
        self.scale = self.layer = 0
        self.interrupting = False
        self.image: Image | None = None

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.begin(data.draw(self.cases))

    def begin(self, case: ImageCase) -> None:
        """A new cache; where the policy refuses the budget, for the whole history."""
        self.case = case
        try:
            self.image = Image.of(self.policy, case)
        except NotApplicable:
            self.image = Image.of(self.policy, evolve(case, budget="100%"))
        self.cache = self.image.cache(self.observe)
        self.forget()

    def forget(self) -> None:
        """Resets to an image before its first map, of which nothing is held."""
        self.held, self.scale, self.layer = {}, 0, 0

    @property
    def open(self) -> bool:
        """Whether the image has maps left."""
        return self.image is not None and self.scale < len(self.plan.schedule)

    @property
    def plan(self) -> Any:
        assert self.image is not None
        return self.image.planned.plan

    def observe(self, view: CacheView, kept: Tensor | None) -> None:
        """What is seen is what was held and the whole map; what is kept is noted."""
        if self.interrupting:
            raise Interrupt
        left = view.positions if kept is None else view.positions.gather(2, kept)
        current = list(range(view.schedule.history[view.scale], view.schedule.seen[view.scale]))
        for row in range(view.k.shape[0]):
            for place, head in enumerate(view.heads):
                where = (view.layer, row, head)
                seen = view.positions[row, place].tolist()
                assert self.held.get(where, []) + current == seen, (
                    f"layer, row, head {where}: positions are not its own"
                )
                self.held[where] = left[row, place].tolist() if view.scale + 1 < len(view.schedule) else []
                self.check_originals(view, row, place, head, seen)

    def check_originals(self, view: CacheView, row: int, place: int, head: int, seen: list[int]) -> None:
        """Without folding and loss every key and value is the original of its position; with folding counts add up."""
        assert self.image is not None
        if not self.policy.merger.drops:
            total = None if view.counts is None else float(view.counts[row, place].sum())
            assert total is None or total <= view.schedule.seen[view.scale], "counts exceed the tokens seen"
            return
        _, keys, values = self.image.layers[view.layer]
        for whole, read in ((keys, view.k), (values, view.v)):
            if self.policy.codec.dense:
                assert same_bits(whole[row, head, seen], read[row, place]), "a kept key or value has changed"

    @precondition(lambda self: self.open)
    @rule()
    def attend(self) -> None:
        """The next layer gets the next map, which is attended to, compressed and stored."""
        assert self.image is not None
        with torch.inference_mode():
            out = self.image.attend(self.cache, self.scale, self.layer)
        self.check_output(out)
        self.layer += 1
        if self.layer == self.plan.layers:
            self.scale, self.layer = self.scale + 1, 0

    def check_output(self, out: Tensor) -> None:
        """The attention of one layer (B, H, n, D) is finite."""
        assert bool(out.isfinite().all()), "attention is nan or inf"

    @precondition(lambda self: self.open)
    @rule()
    def interrupt(self) -> None:
        """Ctrl-C in the middle of attention: the image is lost, the cache is not."""
        assert self.image is not None
        self.interrupting = True
        try:
            with torch.inference_mode():
                self.image.attend(self.cache, self.scale, self.layer)
        except Interrupt:
            self.forget()
        finally:
            self.interrupting = False

    @rule()
    def reset(self) -> None:
        """The image is interrupted, and the same cache generates the next one."""
        self.cache.close()
        self.forget()

    @rule(rows=st.integers(1, 3), seed=seeds(), content=content_kinds(), dtype=dtypes())
    def change_batch(self, rows: int, seed: int, content: Any, dtype: str) -> None:
        """The next image has other rows, numbers and dtype."""
        self.cache.close()
        self.begin(evolve(self.case, rows=rows, seed=seed, content=content, dtype=dtype))

    @rule(data=st.data())
    def change_schedule(self, data: st.DataObject) -> None:
        """The next image has another schedule and budget, under the same policy value."""
        self.cache.close()
        self.begin(data.draw(self.cases))

    @invariant()
    def every_head_holds_what_is_planned(self) -> None:
        """As many tokens as the plan says and as the lists have, in every layer, also in the middle of a scale."""
        if self.image is None:
            return
        for layer in range(self.plan.layers):
            done = self.scale + (layer < self.layer)
            planned = self.plan.held[done - 1, layer].tolist() if done else [0] * self.plan.heads
            assert planned == self.cache.held_tokens(layer), f"layer {layer} holds {self.cache.held_tokens(layer)}"
            listed = {len(held) for (at, _, head), held in self.held.items() if at == layer and planned[head] == 0}
            assert listed <= {0}, f"layer {layer}: tokens are listed where none may be held"

    @invariant()
    def bytes_are_planned(self) -> None:
        """Between scales resident bytes are planned bytes; before the first map there are none."""
        if self.image is None or self.layer:
            return
        planned = self.image.planned.footprint.planned[self.scale - 1] if self.scale else 0
        assert planned == self.cache.resident_bytes(), (
            f"{planned} bytes are planned, {self.cache.resident_bytes()} held"
        )

    def teardown(self) -> None:
        if self.image is not None:
            self.cache.close()
            assert not list(self.cache.tensors()), "a closed cache holds tensors"


def machine_for(make: Callable[[], Policy]) -> type[CacheMachine]:
    """A state machine for this policy: a class of its own, whose ``TestCase`` a test suite collects.

    >>> from scalekv_core.testing.toy import latest
    >>> TestLatest = machine_for(latest).TestCase
    """
    policy = make()
    members = {"policy": policy, "cases": image_cases(only_for_of(policy)), "__doc__": CacheMachine.__doc__}
    return type(f"CacheMachine of {policy.name}", (CacheMachine,), members)
