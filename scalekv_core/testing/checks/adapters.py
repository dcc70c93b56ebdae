"""What a model adapter is checked for, on a small model of the family that it is for."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.contracts.policy import Policy
from scalekv_core.session.session import Session, attached
from scalekv_core.testing.cases import GenerationCase
from scalekv_core.testing.common import NeverApplies, NotApplicable, all_same, check_randomness, made_on_few, same_bits
from scalekv_core.testing.manners import quietly
from scalekv_core.testing.state import Contents
from scalekv_core.testing.testmodels import TestModel, differences, inside, shared
from scalekv_core.testing.toy import Even, Latest, ToyModel
from scalekv_core.testing.watching import FAILURES, CtrlC, Inside, Lines, Steps, Watch, stored_bytes, watched

Make = Callable[[], ModelAdapter]


def start(make: Make, test_model: TestModel) -> tuple[ModelAdapter, Any, nn.Module]:
    """A new adapter, a new test model, and the module in it."""
    loaded = test_model.load()
    return make(), loaded, test_model.module(loaded)


def generate_until_it_stops(test_model: TestModel, loaded: Any, case: GenerationCase) -> None:
    """An image that fails in the middle; what went wrong has to come through."""
    try:
        test_model.generated(loaded, case.rows, case.seed)
    except FAILURES:
        return
    raise AssertionError("an exception in the middle of an image does not reach the caller")


def middle(adapter: ModelAdapter, module: nn.Module, case: GenerationCase) -> int:
    """The call at which this case stops, always one that happens."""
    geometry = adapter.geometry(module)
    return case.stop % (geometry.layers * len(geometry.schedule))


class _LookAlike(nn.Module):
    """A model of no family that has what many models have."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.blocks = nn.ModuleList([nn.Linear(4, 4)]), nn.ModuleList([nn.Linear(4, 4)])
        self.head, self.num_heads, self.heads, self.depth = nn.Linear(4, 4), 2, 2, 1

    def generate(self) -> None:
        """Generates nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def check_knows_its_models(make: Make, test_model: TestModel) -> None:
    """It knows a model of its family and no other, and looking changes nothing."""
    adapter, _, module = start(make, test_model)
    before = inside(module)
    assert adapter.matches(module), f"it does not know a {type(module).__name__}, which it is for"
    others = [
        nn.Linear(2, 2),
        nn.Sequential(),
        nn.MultiheadAttention(4, 2),
        _LookAlike(),
        nn.ModuleList([nn.Linear(1, 1)]),
    ]
    others += [] if isinstance(module, ToyModel) else [ToyModel()]
    for other in others:
        assert not adapter.matches(other), f"it takes a {type(other).__name__} for one of its models"
    changed = differences(before, inside(module))
    assert not changed, f"looking at a model changes it: {changed[0]}"


def check_geometry_is_true(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """Schedule, layers, heads, width and dtype are those that attention really comes with."""
    adapter, loaded, module = start(make, test_model)
    geometry, watch = adapter.geometry(module), Watch()
    with watched(adapter, module, watch):
        test_model.generated(loaded, case.rows, case.seed)
    assert watch.calls, "no image asked for a cache"
    assert geometry.schedule == watch.schedules[0], (
        f"it says maps {geometry.schedule}; the image has {watch.schedules[0]}"
    )
    assert geometry.rows == 1, f"it says {geometry.rows} rows; the geometry of a model is that of one"
    for call in watch.calls[0]:
        said, came = (geometry.heads, geometry.head_dim), (call.shape[1], call.shape[3])
        assert said == came, f"it says {said[0]} heads of width {said[1]}; keys came as (B, H, n, D) = {call.shape}"
        assert geometry.dtype == call.dtype, f"it says {geometry.dtype}; keys came in {call.dtype}"
    layers = 1 + max(call.layer for call in watch.calls[0])
    assert geometry.layers == layers, f"it says {geometry.layers} layers; {layers} came"


def check_every_map_reaches_the_cache(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """Every layer hands over every map, whole, once and in order: a policy that is never asked is no policy."""
    adapter, loaded, module = start(make, test_model)
    geometry, watch = adapter.geometry(module), Watch()
    with watched(adapter, module, watch):
        test_model.generated(loaded, case.rows, case.seed)
    expected = [(layer, n) for n in geometry.schedule.tokens for layer in range(geometry.layers)]
    assert watch.calls, "no image asked for a cache"
    for calls in watch.calls:
        actual = [(call.layer, call.shape[2]) for call in calls]
        assert expected == actual, (
            f"the cache saw (layer, tokens) {actual[:8]} and so on, {len(actual)} calls; "
            f"wanted {expected[:8]} and so on, {len(expected)}"
        )


def check_closes_its_caches(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """The cache of an image that is done is closed, once, and nothing holds on to it."""
    adapter, loaded, module = start(make, test_model)
    watch = Watch()
    with watched(adapter, module, watch):
        test_model.generated(loaded, case.rows, case.seed)
        assert [1] * len(watch.calls) == watch.closed, f"the image is done; its cache was closed {watch.closed} times"
        assert not watch.alive, "the image is done, and something still holds its cache"


def check_closes_after_a_failure(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """So is the cache of an image that failed or was interrupted by Ctrl-C: by the next image, or by detaching, at the latest."""
    adapter, loaded, module = start(make, test_model)
    for failure in FAILURES:
        for then in ("the next image", "detaching"):
            watch = Watch(stop=middle(adapter, module, case), failure=failure)
            with watched(adapter, module, watch):
                generate_until_it_stops(test_model, loaded, case)
                if then == "the next image":
                    test_model.generated(loaded, case.rows, case.seed)
                    _assert_closed(watch, f"after {_in_words(failure)} and {then}")
            _assert_closed(watch, f"after {_in_words(failure)} and {then}")


def _assert_closed(watch: Watch, when: str) -> None:
    assert all(watch.closed), f"{when} the cache of the image that failed is not closed"
    assert not watch.alive, f"{when} something still holds the cache of an image"


def check_the_whole_cache_is_lossless(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """With a cache that evicts nothing whatever comes out is bit-identical, for one image after the other."""
    adapter, loaded, module = start(make, test_model)
    expected = test_model.generated(loaded, case.rows, case.seed)
    lossless = Policy(name="lossless", allocator=Even(), selector=Latest(), budget="100%")
    with watched(adapter, module, Watch()):
        for image in ("the first image", "the second image"):
            assert all_same(expected, test_model.generated(loaded, case.rows, case.seed)), (
                f"{image} is not bit-identical"
            )
    with attached(module, adapter, Session(module, adapter, lossless), "the kit"):
        assert all_same(expected, test_model.generated(loaded, case.rows, case.seed)), (
            "under a budget of 100 % it is not"
        )


def check_works_in_other_dtypes(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """So it is for a model in another dtype, as far as the model itself works in it; its geometry says which."""
    tried = 0
    for dtype in (torch.bfloat16, torch.float64):
        adapter, loaded, module = start(make, test_model)
        module.to(dtype)
        try:
            expected = test_model.generated(loaded, case.rows, case.seed)
        except Exception:  # the model, or how the test makes it generate, is for one dtype
            continue
        watch, tried = Watch(), tried + 1
        with watched(adapter, module, watch):
            actual = test_model.generated(loaded, case.rows, case.seed)
        assert _agree(expected, actual), f"in {dtype} other images come out"
        came = {call.dtype for calls in watch.calls for call in calls}
        said = adapter.geometry(module).dtype
        assert came == {said}, f"the geometry of a model in {dtype} says {said}; keys came in {came.pop()}"
    if not tried:
        raise NeverApplies("the model works in one dtype only")


def _agree(ones: list[Tensor], others: list[Tensor]) -> bool:
    """Bit by bit, but in float64 for its last digits, which the factor on q.k has or has not."""
    if len(ones) != len(others) or any(x.dtype != y.dtype for x, y in zip(ones, others, strict=True)):
        return False
    exact = [(x, y) for x, y in zip(ones, others, strict=True) if x.dtype != torch.float64]
    near = [(x, y) for x, y in zip(ones, others, strict=True) if x.dtype == torch.float64]
    return all(same_bits(x, y) for x, y in exact) and all(torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in near)


def check_attention_is_the_caches(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """The model goes on with what the cache returns: one that attends for itself as well is not compressed."""
    adapter, loaded, module = start(make, test_model)
    expected = test_model.generated(loaded, case.rows, case.seed)
    with watched(adapter, module, Watch(silent=True)):
        actual = test_model.generated(loaded, case.rows, case.seed)
    assert not all_same(expected, actual), (
        "a cache that returns zeros changes nothing: what it returns is not used, or attention matters little in this model"
    )


def check_the_model_stores_nothing(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """The model does not go on storing keys and values of its own: the memory that a policy frees would still be taken."""
    adapter, loaded, module = start(make, test_model)
    geometry, stored = adapter.geometry(module), []
    at_rest = stored_bytes(module)
    with watched(adapter, module, Watch(before=lambda: stored.append(stored_bytes(module) - at_rest))):
        test_model.generated(loaded, case.rows, case.seed)
    assert stored, "no image asked for a cache"
    history = geometry.history_bytes
    assert max(stored) - stored[0] < history / 2, (
        f"while an image is generated the model holds {max(stored)} bytes beside the cache; "
        f"the history's keys and values of one row are {history}"
    )


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


def check_restores_after_an_exception(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """Also when an image fails in the middle: nothing is left in the model, and nothing holds the image's cache."""
    adapter, loaded, module = start(make, test_model)
    expected, before = test_model.generated(loaded, case.rows, case.seed), Inside.of(test_model, loaded, module, case)
    for failure in FAILURES:
        watch = Watch(stop=middle(adapter, module, case), failure=failure)
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
    for failure in FAILURES:
        watch = Watch(stop=middle(adapter, module, case), failure=failure)
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


def check_holds_what_was_planned(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """Under a budget tokens are dropped, and after every scale resident bytes are planned bytes."""
    adapter, loaded, module = start(make, test_model)
    policy = Policy(name="latest", allocator=Even(), selector=Latest(), budget=case.budget)
    session = Session(module, adapter, policy, check=True)
    with attached(module, adapter, session, "the kit"):
        test_model.generated(loaded, case.rows, case.seed)
    for image in session.report().images:
        planned = image.planned.footprint.planned
        assert image.as_planned, f"after the scales {planned} bytes are planned and {image.resident} are resident"
    if not any(image.planned.plan.drops for image in session.report().images):
        raise NotApplicable("the model is too small for this budget to drop anything")
    session.check_used()


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
        return str(error).splitlines()[0]
    return None


def _in_words(failure: type[BaseException]) -> str:
    return "Ctrl-C" if failure is CtrlC else "an exception"
