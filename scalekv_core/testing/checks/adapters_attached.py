"""Checks that an adapter leaves nothing changed in a model once it is detached."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor

from scalekv_core.contracts.policy import Policy
from scalekv_core.errors import first_line
from scalekv_core.session.attaching import attached
from scalekv_core.session.session import Session
from scalekv_core.testing.cases import GenerationCase
from scalekv_core.testing.checks.adapters import Make, start
from scalekv_core.testing.common import all_same, check_randomness, made_on_few
from scalekv_core.testing.manners import quietly
from scalekv_core.testing.state import Contents
from scalekv_core.testing.testmodels import TestModel, differences, inside, shared
from scalekv_core.testing.toy import Even, Latest
from scalekv_core.testing.watching import CtrlC, Inside, Lines, Watch, watched


def check_restores_exactly(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """After detaching the instance is what it was: attributes, hooks, weights; whether an image was generated or not."""
    adapter, loaded, module = start(make, test_model)
    before = Inside.of(test_model, loaded, module, case)
    for images in (0, 1):
        with watched(adapter, module, Watch()):
            for _ in range(images):
                test_model.generated(loaded, case.rows, case.seed)
        changed = before.changes(module)
        assert not changed, f"after {images} images and detaching {changed[0]} ({len(changed)} differences)"


def check_restores_modes(make: Make, test_model: TestModel) -> None:
    """Also of a model that is being trained: parts in training mode stay in it, frozen weights stay frozen."""
    adapter, _, module = start(make, test_model)
    for training in (True, False):
        module.train(training)
        for i, part in enumerate(module.children()):
            part.train(training if i % 2 else not training)
        for i, weight in enumerate(module.parameters()):
            weight.requires_grad_(bool(i % 2))
        before = inside(module)
        with watched(adapter, module, Watch()):
            pass
        changed = differences(before, inside(module))
        assert not changed, f"after attaching and detaching {changed[0]} ({len(changed)} differences)"


def check_is_attached_all_or_nothing(make: Make, test_model: TestModel) -> None:
    """Ctrl-C between any two steps of attaching or detaching leaves the model as it was.

    It may come to nothing where the step was the last one; what counts is that no half of the adapter stays in the model.
    """
    adapter, _, module = start(make, test_model)
    lossless = Policy(name="lossless", allocator=Even(), selector=Latest(), budget="100%")
    session, before = Session(module, adapter, lossless), inside(module)
    with Lines() as lines, attached(module, adapter, session, "the kit"):
        pass
    every = max(1, lines.taken // 40)
    for stop in [*range(0, lines.taken, every), *range(max(0, lines.taken - 3), lines.taken)]:
        with contextlib.suppress(CtrlC), Lines(stop), attached(module, adapter, session, "the kit"):
            pass
        changed = differences(before, inside(module))
        assert not changed, (
            f"after Ctrl-C at step {stop} of {lines.taken} of attaching and detaching {changed[0]} "
            f"({len(changed)} differences)"
        )


def check_leaves_classes_alone(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """Only the instance is touched: classes, modules and torch stay as they are, and another instance works as always."""
    adapter, _, module = start(make, test_model)
    other, watch = test_model.load(), Watch()
    expected, before = test_model.generated(other, case.rows, case.seed), shared(module)
    detach = adapter.attach(module, watch)
    try:
        changed = differences(before, shared(module))
        assert not changed, f"attaching patches what other models use: {changed[0]}"
        actual = test_model.generated(other, case.rows, case.seed)
        assert not watch.calls, "another instance of the model uses this one's cache"
        assert all_same(expected, actual), "another instance of the model gives other images while this one is attached"
    finally:
        detach()
    changed = differences(before, shared(module))
    assert not changed, f"detaching patches what other models use: {changed[0]}"


@made_on_few(2)
def check_serves_two_models(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """One adapter attached to two models serves both, each with caches of its own, and lets go of them in any order."""
    adapter = make()
    loaded = [test_model.load() for _ in range(2)]
    modules, watches = [test_model.module(one) for one in loaded], [Watch(), Watch()]
    expected = [test_model.generated(one, case.rows, case.seed + i) for i, one in enumerate(loaded)]
    before = [Inside.of(test_model, one, module, case) for one, module in zip(loaded, modules, strict=True)]
    with contextlib.ExitStack() as second:
        with watched(adapter, modules[0], watches[0]):
            second.enter_context(watched(adapter, modules[1], watches[1]))
            for i in (0, 1, 0):
                _assert_generates(test_model, loaded[i], case, i, expected[i], "of two attached models number")
        _assert_generates(test_model, loaded[1], case, 1, expected[1], "when the other is detached, model")
    for i, images in enumerate((2, 2)):
        begun = len(watches[i].calls)
        assert begun == images, f"two models were attached; number {i} began {begun} caches for {images} images"
        changed = before[i].changes(modules[i])
        assert not changed, f"after two models were attached and detached, in number {i} {changed[0]}"


def _assert_generates(
    test_model: TestModel, loaded: Any, case: GenerationCase, i: int, expected: list[Tensor], which: str
) -> None:
    actual = test_model.generated(loaded, case.rows, case.seed + i)
    assert all_same(expected, actual), f"{which} {i} gives another image"


def check_lets_go(make: Make, test_model: TestModel) -> None:
    """After detaching the adapter holds neither the model nor the source of its caches."""
    adapter, loaded, module = start(make, test_model)
    untouched, watch = Contents.of(adapter), Watch()
    with watched(adapter, module, watch):
        test_model.generated(loaded, 1, 0)
    changed = untouched.changes(Contents.of(adapter))
    references = {"the model": weakref.ref(module)}
    del loaded, module, watch
    gc.collect()
    held = [name for name, reference in references.items() if reference() is not None]
    assert not held or not changed, f"after detaching the adapter still holds {held[0]}, in {changed[0]}"


def check_ignores_global_randomness(make: Make, test_model: TestModel) -> None:
    """Attaching and detaching move no global generator."""
    adapter, _, module = start(make, test_model)

    def attach_and_detach() -> list[Tensor]:
        with watched(adapter, module, Watch()):
            return []

    check_randomness(attach_and_detach)


def check_is_quiet(make: Make, test_model: TestModel) -> None:
    """It prints nothing, warns of nothing, and leaves the settings of torch and of the process alone."""
    adapter, loaded, module = start(make, test_model)
    unmodified = _complaint(lambda: test_model.generated(loaded, 1, 0))

    def generate() -> list[Tensor]:
        with watched(adapter, module, Watch()):
            return test_model.generated(loaded, 1, 0)

    complaint = _complaint(generate)
    assert complaint is None or complaint == unmodified, (
        complaint
    )  # what the model itself does is not the adapter's fault


def _complaint(act: Callable[[], list[Tensor]]) -> str | None:
    try:
        quietly(act)
    except AssertionError as error:
        return first_line(error)
    return None
