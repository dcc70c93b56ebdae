"""Checks that an adapter leaves nothing behind where an image fails or is interrupted."""

from __future__ import annotations

from typing import Any

from torch import nn

from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.testing.cases import GenerationCase
from scalekv_core.testing.checks.adapters import Make, start
from scalekv_core.testing.common import all_same
from scalekv_core.testing.testmodels import TestModel
from scalekv_core.testing.watching import FAILURES, CtrlC, Inside, Steps, Watch, watched


def generate_until_it_stops(test_model: TestModel, loaded: Any, case: GenerationCase) -> None:
    """An image that fails in the middle; the adapter has to let the error through."""
    try:
        test_model.generated(loaded, case.rows, case.seed)
    except FAILURES:
        return
    raise AssertionError("an exception in the middle of an image does not reach the caller")


def middle(adapter: ModelAdapter, module: nn.Module, test_model: TestModel, loaded: Any, case: GenerationCase) -> int:
    """The call of attention at which this case stops, among those of an image that does not fail: callers may choose its maps."""
    watch = Watch()
    with watched(adapter, module, watch):
        test_model.generated(loaded, case.rows, case.seed)
    return case.stop % max(1, sum(map(len, watch.calls)))


def check_closes_after_a_failure(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """So is the cache of an image that failed or was interrupted by Ctrl-C: before the next one begins, or by detaching.

    Not at once, since an adapter that replaces attention alone is not told of a failure elsewhere; the unmodified model,
    too, holds its keys and values until it generates again. But two caches at once may be too much for the device.
    """
    adapter, loaded, module = start(make, test_model)
    stop = middle(adapter, module, test_model, loaded, case)
    for failure in FAILURES:
        for then in ("the next image", "detaching"):
            watch = Watch(stop=stop, failure=failure)
            with watched(adapter, module, watch):
                generate_until_it_stops(test_model, loaded, case)
                if then == "the next image":
                    test_model.generated(loaded, case.rows, case.seed)
                    _assert_closed(watch, f"after {_in_words(failure)} and {then}")
            _assert_closed(watch, f"after {_in_words(failure)} and {then}")


def _assert_closed(watch: Watch, when: str) -> None:
    assert all(watch.closed), f"{when} the cache of the image that failed is not closed"
    assert not any(watch.open_before), (
        f"{when} the cache of the image that failed was closed only after the next image had got its own: that is memory "
        "for two"
    )
    assert not watch.alive, f"{when} something still holds the cache of an image"


def check_restores_after_an_exception(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """Also when an image fails in the middle: nothing is left in the model, and nothing holds the image's cache."""
    adapter, loaded, module = start(make, test_model)
    expected, before = test_model.generated(loaded, case.rows, case.seed), Inside.of(test_model, loaded, module, case)
    stop = middle(adapter, module, test_model, loaded, case)
    for failure in FAILURES:
        watch = Watch(stop=stop, failure=failure)
        with watched(adapter, module, watch):
            generate_until_it_stops(test_model, loaded, case)
        changed, how = before.changes(module), f"after {_in_words(failure)} in the middle of an image and detaching"
        assert not changed, f"{how} {changed[0]} ({len(changed)} differences)"
        assert not watch.alive, f"{how} something still holds the image's cache"
        assert all_same(expected, test_model.generated(loaded, case.rows, case.seed)), f"{how} images are other ones"


def check_goes_on_after_an_exception(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """The image after one that failed starts from nothing, while the adapter is still attached."""
    adapter, loaded, module = start(make, test_model)
    expected = test_model.generated(loaded, case.rows, case.seed)
    stop = middle(adapter, module, test_model, loaded, case)
    for failure in FAILURES:
        watch = Watch(stop=stop, failure=failure)
        with watched(adapter, module, watch):
            generate_until_it_stops(test_model, loaded, case)
            begun, how = len(watch.calls), f"after {_in_words(failure)} the next image"
            assert all_same(expected, test_model.generated(loaded, case.rows, case.seed)), f"{how} is another one"
            assert len(watch.calls) > begun, f"{how} goes on with the cache of the one that failed"


def check_fails_cleanly_anywhere(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """An image that fails outside of attention, before, between and after its calls, leaves no more behind."""
    adapter, loaded, module = start(make, test_model)
    expected, before = test_model.generated(loaded, case.rows, case.seed), Inside.of(test_model, loaded, module, case)
    with watched(adapter, module, Watch()), Steps() as steps:
        test_model.generated(loaded, case.rows, case.seed)
    stops = {steps.taken - 1, *((case.stop + 1000 * part // 5) % 1000 * steps.taken // 1000 for part in range(5))}
    for i, stop in enumerate(sorted(stops)):
        failure, watch = FAILURES[(i + case.seed) % 2], Watch()
        how = f"after {_in_words(failure)} at step {stop} of {steps.taken} of an image"
        with watched(adapter, module, watch):
            with Steps(stop, failure):
                generate_until_it_stops(test_model, loaded, case)
            assert all_same(expected, test_model.generated(loaded, case.rows, case.seed)), (
                f"{how} the next is another one"
            )
        _assert_closed(watch, how)
        changed = before.changes(module)
        assert not changed, f"{how} and detaching {changed[0]} ({len(changed)} differences)"


def _in_words(failure: type[BaseException]) -> str:
    return "Ctrl-C" if failure is CtrlC else "an exception"
