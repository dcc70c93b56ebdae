"""What a model adapter promises, checked on a specimen: a tiny model of the family that it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.contracts.policy import Policy
from scalekv_core.session.session import Session, attached
from scalekv_core.testing.cases import DrawCase
from scalekv_core.testing.common import NotApplicable, all_same, check_randomness
from scalekv_core.testing.specimens import Specimen, classes, differences, inside
from scalekv_core.testing.toy import Even, Latest
from scalekv_core.testing.watching import Inside, Stop, Watch, watched

Make = Callable[[], ModelAdapter]


def start(make: Make, specimen: Specimen) -> tuple[ModelAdapter, Any, nn.Module]:
    """A new adapter, a new specimen, and the module in it."""
    loaded = specimen.load()
    return make(), loaded, specimen.module(loaded)


def draw_until_it_stops(specimen: Specimen, loaded: Any, case: DrawCase) -> None:
    """An image that fails in the middle; what went wrong has to come through."""
    try:
        specimen.drawn(loaded, case.rows, case.seed)
    except Stop:
        return
    raise AssertionError("an exception inside of attention does not reach the caller")


def middle(adapter: ModelAdapter, module: nn.Module, case: DrawCase) -> int:
    """The call at which this case stops, always one that happens."""
    geometry = adapter.geometry(module)
    return case.stop % (geometry.layers * len(geometry.schedule))


def check_knows_its_models(make: Make, specimen: Specimen) -> None:
    """It knows a model of its family and no other, and looking changes nothing."""
    adapter, _, module = start(make, specimen)
    before = inside(module)
    assert adapter.matches(module), f"it does not know a {type(module).__name__}, which it is for"
    for foreign in (nn.Linear(2, 2), nn.Sequential(), nn.MultiheadAttention(4, 2)):
        assert not adapter.matches(foreign), f"it takes a {type(foreign).__name__} for one of its models"
    changed = differences(before, inside(module))
    assert not changed, f"looking at a model changes it: {changed[0]}"


def check_geometry_is_true(make: Make, specimen: Specimen, case: DrawCase) -> None:
    """Schedule, layers, heads, width and dtype are those that attention really comes with."""
    adapter, loaded, module = start(make, specimen)
    geometry, watch = adapter.geometry(module), Watch()
    with watched(adapter, module, watch):
        specimen.drawn(loaded, case.rows, case.seed)
    assert watch.calls, "no image asked for a cache"
    assert geometry.schedule == watch.schedules[0], f"it says maps {geometry.schedule}; drawn are {watch.schedules[0]}"
    assert geometry.rows == 1, f"it says {geometry.rows} rows; the geometry of a model is that of one"
    for call in watch.calls[0]:
        said, came = (geometry.heads, geometry.head_dim), (call.shape[1], call.shape[3])
        assert said == came, f"it says {said[0]} heads of width {said[1]}; keys came as (B, H, n, D) = {call.shape}"
        assert geometry.dtype == call.dtype, f"it says {geometry.dtype}; keys came in {call.dtype}"
    layers = 1 + max(call.layer for call in watch.calls[0])
    assert geometry.layers == layers, f"it says {geometry.layers} layers; {layers} came"


def check_every_map_reaches_the_cache(make: Make, specimen: Specimen, case: DrawCase) -> None:
    """Every layer hands over every map, whole, once and in order: a policy that is never asked is no policy."""
    adapter, loaded, module = start(make, specimen)
    geometry, watch = adapter.geometry(module), Watch()
    with watched(adapter, module, watch):
        specimen.drawn(loaded, case.rows, case.seed)
    expected = [(layer, n) for n in geometry.schedule.tokens for layer in range(geometry.layers)]
    assert watch.calls, "no image asked for a cache"
    for calls in watch.calls:
        actual = [(call.layer, call.shape[2]) for call in calls]
        assert expected == actual, (
            f"the cache saw (layer, tokens) {actual[:8]} and so on, {len(actual)} calls; "
            f"wanted {expected[:8]} and so on, {len(expected)}"
        )


def check_closes_its_caches(make: Make, specimen: Specimen, case: DrawCase) -> None:
    """The cache of an image that is done is closed, once, and nothing holds on to it."""
    adapter, loaded, module = start(make, specimen)
    watch = Watch()
    with watched(adapter, module, watch):
        specimen.drawn(loaded, case.rows, case.seed)
        assert [1] * len(watch.calls) == watch.closed, f"the image is done; its cache was closed {watch.closed} times"
        assert not watch.alive, "the image is done, and something still holds its cache"


def check_the_whole_cache_is_lossless(make: Make, specimen: Specimen, case: DrawCase) -> None:
    """With a cache that keeps everything whatever comes out is bit-identical, for one image after the other."""
    adapter, loaded, module = start(make, specimen)
    expected = specimen.drawn(loaded, case.rows, case.seed)
    everything = Policy(name="everything", allocator=Even(), selector=Latest(), budget="100%")
    with watched(adapter, module, Watch()):
        for image in ("the first image", "the second image"):
            assert all_same(expected, specimen.drawn(loaded, case.rows, case.seed)), f"{image} is not bit-identical"
    with attached(module, adapter, Session(module, adapter, everything), "the kit"):
        assert all_same(expected, specimen.drawn(loaded, case.rows, case.seed)), "under a budget of 100 % it is not"


def check_attention_is_the_caches(make: Make, specimen: Specimen, case: DrawCase) -> None:
    """The model goes on with what the cache returns: one that attends for itself as well is not compressed."""
    adapter, loaded, module = start(make, specimen)
    expected = specimen.drawn(loaded, case.rows, case.seed)
    with watched(adapter, module, Watch(silent=True)):
        actual = specimen.drawn(loaded, case.rows, case.seed)
    assert not all_same(expected, actual), (
        "a cache that returns zeros changes nothing: what it returns is not used, or attention matters little to this specimen"
    )


def check_restores_exactly(make: Make, specimen: Specimen, case: DrawCase) -> None:
    """After detaching the instance is what it was: attributes, hooks, weights; whether an image was drawn or not."""
    adapter, loaded, module = start(make, specimen)
    before = Inside.of(specimen, loaded, module, case)
    for images in (0, 1):
        with watched(adapter, module, Watch()):
            for _ in range(images):
                specimen.drawn(loaded, case.rows, case.seed)
        changed = before.changes(module)
        assert not changed, f"after {images} images and detaching {changed[0]} ({len(changed)} differences)"


def check_restores_after_an_exception(make: Make, specimen: Specimen, case: DrawCase) -> None:
    """Also when an image fails in the middle: nothing is left in the model, and nothing holds the image's cache."""
    adapter, loaded, module = start(make, specimen)
    expected, before = specimen.drawn(loaded, case.rows, case.seed), Inside.of(specimen, loaded, module, case)
    watch = Watch(stop=middle(adapter, module, case))
    with watched(adapter, module, watch):
        draw_until_it_stops(specimen, loaded, case)
    changed = before.changes(module)
    assert not changed, f"after an image that failed and detaching {changed[0]} ({len(changed)} differences)"
    assert not watch.alive, "after an image that failed and detaching something still holds its cache"
    assert all_same(expected, specimen.drawn(loaded, case.rows, case.seed)), "the model draws something else now"


def check_draws_on_after_an_exception(make: Make, specimen: Specimen, case: DrawCase) -> None:
    """The image after one that failed starts from nothing, while the adapter is still attached."""
    adapter, loaded, module = start(make, specimen)
    expected, watch = specimen.drawn(loaded, case.rows, case.seed), Watch(stop=middle(adapter, module, case))
    with watched(adapter, module, watch):
        draw_until_it_stops(specimen, loaded, case)
        begun = len(watch.calls)
        assert all_same(expected, specimen.drawn(loaded, case.rows, case.seed)), "the next image is another one"
        assert len(watch.calls) > begun, "the next image goes on with the cache of the one that failed"


def check_leaves_classes_alone(make: Make, specimen: Specimen, case: DrawCase) -> None:
    """Only the instance is touched: classes stay as they are, and another instance draws as always."""
    adapter, _, module = start(make, specimen)
    other, watch = specimen.load(), Watch()
    before = classes(module)
    detach = adapter.attach(module, watch)
    try:
        changed = differences(before, classes(module))
        assert not changed, f"attaching patches a class: {changed[0]}"
        specimen.drawn(other, case.rows, case.seed)
        assert not watch.calls, "another instance of the model draws with this one's cache"
    finally:
        detach()
    changed = differences(before, classes(module))
    assert not changed, f"detaching patches a class: {changed[0]}"


def check_holds_what_was_planned(make: Make, specimen: Specimen, case: DrawCase) -> None:
    """Under a budget tokens are dropped, and after every scale resident bytes are planned bytes."""
    adapter, loaded, module = start(make, specimen)
    policy = Policy(name="latest", allocator=Even(), selector=Latest(), budget=case.budget)
    session = Session(module, adapter, policy, check=True)
    with attached(module, adapter, session, "the kit"):
        specimen.drawn(loaded, case.rows, case.seed)
    for image in session.report().images:
        planned = image.planned.footprint.planned
        assert image.as_planned, f"after the scales {planned} bytes are planned and {image.resident} are resident"
    if not any(image.planned.plan.drops for image in session.report().images):
        raise NotApplicable("the model is too small for this budget to drop anything")
    session.check_used()


def check_ignores_global_randomness(make: Make, specimen: Specimen) -> None:
    """Attaching and detaching move no global generator."""
    adapter, _, module = start(make, specimen)

    def attach_and_detach() -> list[Tensor]:
        with watched(adapter, module, Watch()):
            return []

    check_randomness(attach_and_detach)
