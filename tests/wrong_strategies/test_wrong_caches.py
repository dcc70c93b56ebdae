"""Faults that only a cache can have: the checks of a whole policy find them, and so does the state machine."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from scalekv_core import KVCache, SessionError
from scalekv_core.testing import checks_of, images, machine_for, toy
from scalekv_core.testing.kinds import KINDS, check_named
from scalekv_core.testing.running import try_check
from scalekv_core.testing.trying import Subject
from tests.wrong_strategies.policies import changes_keys
from tests.wrong_strategies.table import WRONG, subject_of


class CountsPlaces(KVCache):
    """Numbers its tokens anew at every scale."""

    def _view(self, *args):
        view = super()._view(*args)
        return evolve(view, positions=torch.arange(view.tokens, dtype=torch.int32).expand(view.positions.shape))


class ForgetsTheMap(KVCache):
    """Loses the key of the last token of every map."""

    def attend(self, layer, q, k, v, **options):
        late = k.clone()
        late[:, :, -1] = 0
        return super().attend(layer, q, late, v, **options)


class StoresTheLast(KVCache):
    """Keeps the last map that it was given."""

    last = torch.zeros(1)

    def attend(self, layer, q, k, v, **options):
        self.last = k.clone()
        return super().attend(layer, q, k, v, **options)

    def tensors(self):
        yield from super().tensors()
        yield self.last


class NeverForgets(KVCache):
    """Is closed and goes on."""

    def close(self):
        pass


class NothingDropped(KVCache):
    """Says that it dropped nothing."""

    dropped = property(lambda self: False, lambda self, value: None)


class ShowsTheUnread(KVCache):
    """Lets policies choose among all tokens, also those that no later map reads."""

    def __init__(self, plan, policy, **options):
        super().__init__(plan, policy, **options)
        for store in (group for layer in self._layers for group in layer.groups):
            store.steps = store.steps and tuple(evolve(step, **self.changed(step)) for step in store.steps)

    def changed(self, step):
        return {"offered": ((step.text, step.history + step.current),)} if step.stored else {}


class KeepsTheUnread(ShowsTheUnread):
    """Keeps as many tokens as it should, the oldest ones, whichever map reads them."""

    def changed(self, step):
        return {"offered": ((step.text, step.remains),)} if step.offered else {}


class LosesTheText(ShowsTheUnread):
    """Takes the text for a map, whose tokens a policy may evict."""

    def changed(self, step):
        return {"text": 0, "offered": step.remaining} if step.offered else {}


class RepeatsKeys(KVCache):
    """Weighs a key for each of its query heads."""

    def resident_bytes(self):
        return 2 * super().resident_bytes()


class StoresEveryPass(KVCache):
    """Does not know that a map may be passed twice."""

    def attend(self, layer, q, k, v, *, softmax_scale, store=True):
        if not store:
            for group in self._layers[layer].groups:
                group.stored = None
            return q
        return super().attend(layer, q, k, v, softmax_scale=softmax_scale)


WRONG_CACHES = {
    "unread_maps_are_dropped": KeepsTheUnread,
    "only_what_is_read_later_is_seen": ShowsTheUnread,
    "the_text_is_kept": LosesTheText,
    "grouped_heads_store_each_key_once": RepeatsKeys,
    "a_pass_that_is_not_stored_leaves_nothing": StoresEveryPass,
    "positions_are_true": CountsPlaces,
    "attention_is_over_what_is_held": ForgetsTheMap,
    "the_last_map_is_not_stored": StoresTheLast,
    "an_interrupted_image_leaves_nothing": NeverForgets,
    "a_small_budget_drops": NothingDropped,
}


@pytest.mark.parametrize(("name", "cache"), WRONG_CACHES.items())
def test_a_wrong_cache_fails_its_check(name: str, cache: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy has no fault, so the check fails because of the cache."""
    monkeypatch.setattr(images, "KVCache", cache)
    outcome = try_check(check_named("policy", name), Subject("policy", "latest", toy.latest))

    assert "failed" == outcome.state


def test_every_check_is_failed_by_a_wrong_strategy() -> None:
    """Every check is failed by some strategy, since one that nothing fails may check nothing."""
    failed = {(subject_of(wrong).kind, wrong.check) for wrong in WRONG} | {("policy", name) for name in WRONG_CACHES}

    assert set() == {(kind, one.name) for kind in KINDS for one in checks_of(kind)} - failed


few = settings(
    max_examples=2000,
    stateful_step_count=15,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


@pytest.mark.parametrize("cache", [CountsPlaces, StoresTheLast, NeverForgets])
def test_the_machine_catches_wrong_caches(cache: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state machine finds the fault whatever the order of calls."""
    monkeypatch.setattr(images, "KVCache", cache)
    with pytest.raises((AssertionError, SessionError)):
        run_state_machine_as_test(machine_for(toy.latest), settings=few)


def test_the_machine_catches_wrong_policies() -> None:
    """The machine also finds a policy that changes the keys it is shown."""
    with pytest.raises(AssertionError, match="a kept key or value has changed"):
        run_state_machine_as_test(machine_for(changes_keys), settings=few)
