"""What a model adapter is checked for, on a small model of the family that it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.contracts.policy import Policy
from scalekv_core.errors import BudgetError
from scalekv_core.session.attaching import attached
from scalekv_core.session.session import Session
from scalekv_core.shapes.geometry import CacheGeometry, plural
from scalekv_core.testing.cases import GenerationCase
from scalekv_core.testing.checks.whole import live_tensors, reached_from
from scalekv_core.testing.common import NeverApplies, NotApplicable, Refused, all_same, made_on_few, same_bits
from scalekv_core.testing.testmodels import TestModel, differences, inside
from scalekv_core.testing.toy import Even, Latest, ToyModel
from scalekv_core.testing.watching import Watch, stored_bytes, watched

Make = Callable[[], ModelAdapter]


def start(make: Make, test_model: TestModel) -> tuple[ModelAdapter, Any, nn.Module]:
    """A new adapter, a new test model, and the module in it."""
    loaded = test_model.load()
    return make(), loaded, test_model.module(loaded)


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
    """Schedule (unless callers choose it), layers, heads, width and dtype are those that attention really comes with."""
    adapter, loaded, module = start(make, test_model)
    watch = Watch()
    with watched(adapter, module, watch):
        test_model.generated(loaded, case.rows, case.seed)
    assert watch.calls, "no image asked for a cache"
    geometry = _as_generated(adapter, adapter.geometry(module), watch)
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
    watch = Watch()
    with watched(adapter, module, watch):
        test_model.generated(loaded, case.rows, case.seed)
    _assert_whole(watch, _as_generated(adapter, adapter.geometry(module), watch))


def _as_generated(adapter: ModelAdapter, geometry: CacheGeometry, watch: Watch) -> CacheGeometry:
    """What the adapter says of a model; where callers choose the maps of each image, with those of the first one."""
    return evolve(geometry, schedule=watch.schedules[0]) if adapter.schedule_varies and watch.schedules else geometry


def _assert_whole(watch: Watch, geometry: CacheGeometry) -> None:
    """Every image handed over every map of every layer."""
    expected = [(layer, n) for n in geometry.schedule.tokens for layer in range(geometry.layers)]
    assert watch.calls, "no image asked for a cache"
    for calls in watch.calls:
        actual = [(call.layer, call.shape[2]) for call in calls]
        assert expected == actual, (
            f"the cache saw (layer, tokens) {actual[:8]} and so on, {len(actual)} calls; "
            f"wanted {expected[:8]} and so on, {len(expected)}"
        )


@made_on_few(2)
def check_forced_tokens_go_through_the_cache(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """Also where the tokens of the first scales are given, or of all: a prefix is no reason to leave out the cache."""
    if test_model.force is None:
        raise NeverApplies("its test model has no force, which generates from given tokens")
    adapter, loaded, module = start(make, test_model)
    last = len(adapter.geometry(module).schedule)
    for scales in sorted({1, 1 + case.stop % last, last}):
        expected, watch = test_model.forced(loaded, case.rows, case.seed, scales), Watch()
        with watched(adapter, module, watch):
            actual = test_model.forced(loaded, case.rows, case.seed, scales)
        assert all_same(expected, actual), f"with the tokens of {scales} of {last} scales given it is another image"
        _assert_whole(watch, _as_generated(adapter, adapter.geometry(module), watch))


def check_closes_its_caches(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """The cache of an image that is done is closed, once, and nothing holds on to it."""
    adapter, loaded, module = start(make, test_model)
    watch = Watch()
    with watched(adapter, module, watch):
        test_model.generated(loaded, case.rows, case.seed)
        assert [1] * len(watch.calls) == watch.closed, f"the image is done; its cache was closed {watch.closed} times"
        assert not watch.alive, "the image is done, and something still holds its cache"


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


@made_on_few(2)
def check_the_model_stores_nothing(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """The model does not go on storing keys and values of its own, nor does the adapter: memory that a policy frees would
    still be taken."""
    adapter, loaded, module = start(make, test_model)
    geometry, stored = adapter.geometry(module), []
    at_rest = stored_bytes(module)
    with watched(adapter, module, watch := Watch(before=lambda: stored.append(stored_bytes(module) - at_rest))):
        test_model.generated(loaded, case.rows, case.seed)
        geometry = _as_generated(adapter, geometry, watch)
        watch.before = _AtTheLastScale(watch, geometry)
        test_model.generated(loaded, case.rows, case.seed)
    assert stored, "no image asked for a cache"
    history = geometry.history_bytes * case.rows
    assert max(stored) - stored[0] < history / 2, (
        f"while an image is generated the model holds {max(stored)} bytes beside the cache; "
        f"the history's keys and values of {plural(case.rows, 'row')} are {history}"
    )


class _AtTheLastScale:
    """Fails where keys or values of earlier scales lie in memory beside the watched cache when the last scale begins."""

    def __init__(self, watch: Watch, geometry: CacheGeometry) -> None:
        self._watch, self._geometry = watch, geometry
        self._earlier = {id(x): x for x in live_tensors()}

    def __call__(self) -> None:
        calls = self._watch.calls[-1]
        if len(calls) != self._geometry.layers * (len(self._geometry.schedule) - 1):
            return
        cache = self._watch.caches[-1]()
        assert cache is not None
        own = {x.untyped_storage().data_ptr() for x in reached_from(cache, self._watch)}
        current = self._geometry.schedule.tokens[-1]  # an earlier map as large as this one has keys of the same shape
        shapes = {tuple(sorted(call.shape)) for call in calls if call.shape[2] != current}
        beside = [
            x
            for x in live_tensors()
            if tuple(sorted(x.shape)) in shapes
            and id(x) not in self._earlier
            and x.untyped_storage().data_ptr() not in own
        ]
        assert len(beside) < self._geometry.layers, (
            f"when the last scale begins, {len(beside)} tensors of the shapes of earlier keys lie in memory beside the cache"
        )


def check_holds_what_was_planned(make: Make, test_model: TestModel, case: GenerationCase) -> None:
    """Under a budget tokens are dropped, and after every scale resident bytes are planned bytes."""
    adapter, loaded, module = start(make, test_model)
    policy = Policy(name="latest", allocator=Even(), selector=Latest(), budget=case.budget)
    try:
        session = Session(module, adapter, policy, check=True)
        with attached(module, adapter, session, "the kit"):
            test_model.generated(loaded, case.rows, case.seed)
    except BudgetError as error:
        raise Refused(f"this budget is too small for the model: {error}") from error
    for image in session.report().images:
        planned = image.planned.footprint.planned
        assert image.as_planned, f"after the scales {planned} bytes are planned and {image.resident} are resident"
    if not any(image.planned.plan.drops for image in session.report().images):
        raise NotApplicable("the model is too small for this budget to drop anything")
    session.check_used()
