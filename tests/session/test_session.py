"""Sessions: the model generates compressed inside the block; after it the model is what it was before."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import pytest
import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from scalekv_core import (
    AttentionProfile,
    BudgetError,
    CacheGeometry,
    CacheView,
    ContractError,
    InputError,
    ModelAdapter,
    Policy,
    ProfileError,
    Registry,
    ScaleSchedule,
    SessionError,
    TokenSelector,
    UnknownName,
    compress,
    hookimpl,
    plan_policy,
)
from scalekv_core.cache.clock import STAGES, Clock
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.adapter import CacheSource
from scalekv_core.memory.meter import StorageTracker
from scalekv_core.testing import toy
from scalekv_core.testing.toy import ToyImageModel, ToyModel
from tests.plain import ByProfile, profile_of

TOY = Registry.of(toy)
OTHER_SCHEDULE = ScaleSchedule([(1, 1), (1, 3), (3, 3)])


@pytest.fixture
def model() -> ToyImageModel:
    return cast(ToyImageModel, toy.ToyCard().load())


@pytest.fixture
def module(model: ToyImageModel) -> ToyModel:
    return cast(ToyModel, model.module)


def draw(model: ToyImageModel, *labels: int) -> list[Tensor]:
    """The logits of a batch, scale by scale."""
    generation = model.generate(
        [str(label) for label in labels or (3,)], seeds=[0] * (len(labels) or 1), keep_logits=True
    )
    assert generation.logits is not None
    return list(generation.logits)


def same(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def begin(model: nn.Module, scales: int, *, rows: int = 1) -> None:
    """Generates some maps of an image through the module's own seam and leaves it unfinished, with the cache open."""
    toy_model = cast(ToyModel, model)
    cache = toy_model.new_cache(toy_model.schedule)
    for n in toy_model.schedule.tokens[:scales]:
        for layer in range(len(toy_model.blocks)):
            q, k, v = torch.randn(3, rows, toy_model.heads, n, 8)
            cache.attend(layer, q, k, v, softmax_scale=1.0)


# -- inside and after the block -----------------------------------------------------------------------------------


def test_the_whole_budget_draws_the_same_image(model: ToyImageModel) -> None:
    """Bit-identical to the model without a session, for a batch too."""
    before = draw(model, 1, 2, 3)
    with compress(model, "toy-latest", "100%", registry=TOY, check=True):
        inside = draw(model, 1, 2, 3)

    assert same(before, inside)
    assert same(before, draw(model, 1, 2, 3))


def test_a_smaller_budget_draws_another_image(model: ToyImageModel) -> None:
    """The image differs from the unmodified one, or the other tests would prove nothing; it is the same every time."""
    before = draw(model, 1, 2)
    with compress(model, "toy-latest", "2 tokens", registry=TOY, check=True):
        inside = draw(model, 1, 2)
        assert same(inside, draw(model, 1, 2))
        assert not same(before, inside)


def test_the_report_has_three_figures_and_the_unmodified(model: ToyImageModel) -> None:
    """By hand: 4 of 9 tokens in 3 layers of 4 heads and 2 rows, 64 bytes each and 4 for the position once evicted."""
    with compress(model, "toy-latest", "50%", registry=TOY, measure_peak=True) as session:
        draw(model, 1, 2)
    (image,) = session.report().images

    assert image.as_planned
    assert image.dropped
    assert (1 * 64 * 24, 3 * 64 * 24, 4 * 68 * 24, 0) == image.resident
    figures = session.report().as_dict()
    assert (4 * 68 * 24, 4 * 68 * 24, 29 * 64 * 24) == (
        figures["planned_bytes"],
        figures["resident_bytes"],
        figures["unmodified_bytes"],
    )
    assert figures["peak_bytes"] > figures["resident_bytes"]
    assert (4.0, 2, "float32", 1) == tuple(figures[name] for name in ("tokens_per_head", "rows", "dtype", "images"))
    assert "toy-latest, 50% of history: holds 6.4 KiB (planned 6.4 KiB, peak " in str(session.report())


def test_measuring_the_peak_changes_no_image(model: ToyImageModel) -> None:
    """Without measuring, the report has no peak."""
    with compress(model, "toy-latest", registry=TOY) as plain:
        mine = draw(model, 1)
    with compress(model, "toy-latest", registry=TOY, measure_peak=True) as measured:
        theirs = draw(model, 1)

    assert same(mine, theirs)
    assert plain.report().images[0].peak is None
    assert "peak not measured" in str(plain.report())
    assert measured.report().images[0].peak is not None


def test_batches_and_schedules_may_change_in_one_block(module: ToyModel) -> None:
    """A session plans every image for its own rows, dtype and maps."""
    with compress(module, "toy-latest", registry=TOY, check=True) as session, torch.no_grad():
        module.draw(torch.tensor([1]))
        module.draw(torch.tensor([1, 2, 3]))
        module.schedule = OTHER_SCHEDULE
        module.draw(torch.tensor([4]))
        module.double().draw(torch.tensor([4]))
    images = session.report().images

    assert [(1, 29), (3, 29), (1, 13), (1, 13)] == [
        (image.planned.geometry.rows, image.planned.geometry.schedule.total) for image in images
    ]
    assert [torch.float32] * 3 + [torch.float64] == [image.planned.geometry.dtype for image in images]
    assert all(image.as_planned for image in images)


def test_a_plan_is_taken_as_it_is(model: ToyImageModel) -> None:
    """The report holds the very plan; an image of another batch uses the same one, with its bytes computed anew."""
    planned = plan_policy(toy.latest(), toy.GEOMETRY, budget="2 tokens")
    with compress(model, planned, registry=TOY, check=True) as session:
        draw(model, 1)
        draw(model, 1, 2)
    one, two = session.report().images

    assert planned is one.planned
    assert planned.plan is two.planned.plan
    assert one.as_planned
    assert two.as_planned


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budget": "10%"}, InputError, r"a plan has its budget \(2 tokens\); leave out budget='10%'"),
        ({"selector": "toy-latest"}, InputError, "a plan cannot be changed: leave out selector, or plan the changed"),
        (
            {"layers": 2},
            SessionError,
            "the plan is for 2 layers of 4 heads of width 8; the model has 3 layers of 4 heads",
        ),
    ],
)
def test_a_plan_is_for_this_model_and_as_it_is(
    model: ToyImageModel, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The session refuses another model's plan on entering, in one line."""
    geometry = evolve(toy.GEOMETRY, layers=arguments.pop("layers", 3))
    planned = plan_policy(toy.latest(), geometry, budget="2 tokens")
    with pytest.raises(error, match=message), compress(model, planned, registry=TOY, **arguments):
        raise AssertionError("the block was entered")


def test_an_image_model_and_its_module_are_the_same(model: ToyImageModel, module: ToyModel) -> None:
    """``compress`` takes either."""
    with compress(model, "toy-latest", registry=TOY):
        mine = draw(model, 5)
    with compress(module, "toy-latest", registry=TOY):
        assert same(mine, draw(model, 5))


def test_a_clock_sees_every_stage(model: ToyImageModel) -> None:
    """The clock has seconds per scale and stage; without a merger there is no folding stage."""
    clock = Clock()
    with compress(model, "toy-latest", "2 tokens", registry=TOY, clock=clock):
        draw(model)

    assert {"read", "attention", "select", "store"} == {stage for _, stage in clock.seconds}
    assert set(range(4)) == {scale for scale, _ in clock.seconds}
    assert clock.total() == pytest.approx(sum(clock.total(stage) for stage in STAGES))
    assert all(seconds >= 0 for seconds in clock.seconds.values())


def test_an_observer_sees_every_cut(model: ToyImageModel) -> None:
    """The observer gets one call per scale and layer, with the kept tokens."""
    calls: list[tuple[int, int, int | None]] = []

    def observer(view: CacheView, kept: Tensor | None) -> None:
        calls.append((view.scale, view.layer, None if kept is None else kept.shape[2]))

    with compress(model, "toy-latest", "2 tokens", registry=TOY, observer=observer):
        draw(model)
    assert [(k, la, keep) for k, keep in enumerate([None, 2, 2, 0]) for la in range(3)] == calls


# -- restored, whatever happens -----------------------------------------------------------------------------------


@pytest.fixture
def unchanged(module: ToyModel) -> Iterator[None]:
    """Checks after the test that every attribute of the model and its classes is what it was before."""
    attributes, of_class = dict(vars(module)), dict(vars(ToyModel))
    new_cache = module.new_cache
    yield
    assert new_cache is module.new_cache
    assert attributes == dict(vars(module))
    assert list(attributes) == list(vars(module))
    assert of_class == dict(vars(ToyModel))


@pytest.mark.usefixtures("unchanged")
class TestRestored:
    """The instance has its own attribute back, the same object, however the block ended."""

    def test_after_an_image(self, model: ToyImageModel, module: ToyModel) -> None:
        before = module.new_cache
        with compress(model, "toy-latest", registry=TOY):
            assert before is not module.new_cache
            draw(model)

    @pytest.mark.parametrize(
        "error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit, torch.cuda.OutOfMemoryError]
    )
    def test_after_an_exception_in_the_block(self, model: ToyImageModel, error: type[BaseException]) -> None:
        def block() -> None:
            with compress(model, "toy-latest", registry=TOY):
                draw(model)
                raise error

        with pytest.raises(error):
            block()

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_after_an_exception_in_an_image(self, model: ToyImageModel, error: type[BaseException]) -> None:
        def observer(view: CacheView, kept: Tensor | None) -> None:
            if (view.scale, view.layer) == (2, 1):
                raise error

        with pytest.raises(error), compress(model, "toy-latest", registry=TOY, observer=observer):
            draw(model)

    def test_when_a_generator_is_dropped(self, model: ToyImageModel) -> None:
        def images() -> Iterator[list[Tensor]]:
            with compress(model, "toy-latest", registry=TOY):
                while True:
                    yield draw(model)

        generator = images()
        next(generator)
        generator.close()

    def test_when_nothing_was_drawn(self, model: ToyImageModel) -> None:
        with pytest.raises(SessionError, match="no image was completed"), compress(model, "toy-latest", registry=TOY):
            pass

    def test_when_the_budget_is_refused(self, model: ToyImageModel) -> None:
        with pytest.raises(BudgetError), compress(model, "toy-latest", "1000 tokens", registry=TOY):
            pass

    def test_when_a_second_session_is_refused(self, model: ToyImageModel, module: ToyModel) -> None:
        with compress(model, "toy-latest", registry=TOY):
            attached = module.new_cache
            with (
                pytest.raises(
                    SessionError, match=r"this ToyModel is already attached to 'toy-latest'; leave that block"
                ),
                compress(module, "toy-latest", registry=TOY),
            ):
                pass
            assert attached == module.new_cache, "the first session goes on"
            draw(model)


def test_a_model_can_be_attached_again(model: ToyImageModel) -> None:
    """A model can be attached in one block after the other, also after one that failed."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), compress(model, "toy-latest", registry=TOY):
            1 / 0  # noqa: B018
        with compress(model, "toy-latest", registry=TOY):
            draw(model)


def test_two_models_have_two_sessions(model: ToyImageModel) -> None:
    """Two models of the same class have a session each: only instances are patched."""
    other = cast(ToyImageModel, toy.ToyCard().load())
    whole = draw(model)
    with (
        compress(model, "toy-latest", "1 token", registry=TOY) as small,
        compress(other, "toy-latest", "100%", registry=TOY),
    ):
        assert same(whole, draw(other))
        assert not same(whole, draw(model))
    assert small.report().images[0].dropped


@frozen
class Unwilling(toy.ToyAdapter):
    """An adapter that cannot attach."""

    def attach(self, model: nn.Module, source: Any) -> Callable[[], None]:
        raise SessionError("this instance was compiled")


def test_a_failed_attach_leaves_no_trace(model: ToyImageModel) -> None:
    """The same model can be attached by an adapter that can."""
    registry = Registry.of(evolve_toy(adapter=Unwilling))
    with (
        pytest.raises(SessionError, match="this instance was compiled"),
        compress(model, toy.latest(), registry=registry),
    ):
        pass
    with compress(model, "toy-latest", registry=TOY):
        draw(model)


def evolve_toy(*, adapter: type = toy.ToyAdapter) -> Any:
    """A plugin that offers another adapter for the toy."""
    from types import SimpleNamespace

    from scalekv_core import hookimpl

    return SimpleNamespace(__name__="other", scalekv_model_adapters=hookimpl(lambda: {"toy": adapter}))


# -- no state survives --------------------------------------------------------------------------------------------


def test_an_image_that_failed_does_not_show_in_the_next(model: ToyImageModel, module: ToyModel) -> None:
    """Interrupted anywhere and not closed, an image changes nothing in the next one, and only that one is reported."""
    with compress(model, "toy-latest", "2 tokens", registry=TOY):
        expected = draw(model, 1, 2)

    fail_at = [(9, 9)]

    def observer(view: CacheView, kept: Tensor | None) -> None:
        if (view.scale, view.layer) == fail_at[0]:
            raise KeyboardInterrupt

    with compress(model, "toy-latest", "2 tokens", registry=TOY, observer=observer, check=True) as session:
        for scale in range(4):
            for layer in range(3):
                fail_at[0] = (scale, layer)
                with pytest.raises(KeyboardInterrupt):
                    draw(model, 7)
                fail_at[0] = (9, 9)
                begin(module, scale, rows=3)
                assert same(expected, draw(model, 1, 2))
    assert 12 == len(session.report().images)
    assert all(image.as_planned for image in session.report().images)


def test_only_finished_images_count(model: ToyImageModel, module: ToyModel) -> None:
    """An early stop is no image: the session says that no image was finished."""
    with (
        pytest.raises(SessionError, match="no image was completed inside the block"),
        compress(model, "toy-latest", registry=TOY) as session,
    ):
        begin(module, 3)
    with pytest.raises(SessionError, match="there is nothing to report"):
        session.report()


def test_an_image_that_is_over_cannot_go_on(module: ToyModel) -> None:
    """Once closed, replaced by another image or after the block, a cache refuses in one line to go on."""
    q = torch.randn(1, 4, 1, 8)
    with compress(module, "toy-latest", registry=TOY), torch.no_grad():
        first = module.new_cache(module.schedule)
        first.attend(0, q, q, q, softmax_scale=1.0)
        second = module.new_cache(module.schedule)
        with pytest.raises(SessionError, match="'toy-latest' is over: it was closed, another image was begun"):
            first.attend(1, q, q, q, softmax_scale=1.0)
        second.attend(0, q, q, q, softmax_scale=1.0)
        second.close()
        with pytest.raises(SessionError, match="is over"):
            second.attend(0, q, q, q, softmax_scale=1.0)
        module.draw(torch.tensor([1]))
        last = module.new_cache(module.schedule)
    with pytest.raises(SessionError, match="or the block was left"):
        last.attend(0, q, q, q, softmax_scale=1.0)


def test_closing_twice_counts_once(module: ToyModel) -> None:
    """A model that closes its cache twice does no harm."""
    kept = []
    with compress(module, "toy-latest", registry=TOY) as session, torch.no_grad():
        new_cache = module.new_cache
        module.new_cache = lambda schedule: kept.append(new_cache(schedule)) or kept[-1]  # type: ignore[func-returns-value]
        module.draw(torch.tensor([1]))
        kept[0].close()
        module.new_cache = new_cache
    assert 1 == len(session.report().images)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Turns the garbage collector off, so that the last reference frees the memory."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
def test_memory_is_free_after_an_image(model: ToyImageModel, module: ToyModel) -> None:
    """The memory of a finished image, a failed image and a closed session is free, also while the report is kept."""
    draw(model)
    with StorageTracker() as tracker:
        with compress(model, "toy-latest", registry=TOY) as session:
            draw(model, 1, 2)
            assert tracker.live < 1000, "tables of positions are all that a session keeps between images"
            begin(module, 3)
            assert tracker.live > 1000
        assert 0 == tracker.live
    assert session.report().images


def test_a_session_keeps_no_model_alive() -> None:
    """The register of attached models holds weak references, and is empty after the block."""
    model = cast(ToyImageModel, toy.ToyCard().load())
    with compress(model, "toy-latest", registry=TOY) as session:
        draw(model)
    gone = weakref.ref(model.module)
    del model
    gc.collect()
    assert gone() is None
    assert session.report().images


# -- copies and threads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps, lambda module: torch.save(module, io.BytesIO())])
def test_a_model_that_is_attached_is_not_copied(module: ToyModel, copied: Callable[[nn.Module], object]) -> None:
    """An adapter may let copies come out unattached; otherwise copying is refused in one line."""
    module.new_cache = new_concat_cache  # which can be pickled
    with compress(module, "toy-latest", registry=TOY), torch.no_grad():
        with pytest.raises(SessionError, match="cannot be copied or saved while policy 'toy-latest' is attached to it"):
            copied(module)
        module.draw(torch.tensor([1]))
    copied(module)


def new_concat_cache(schedule: ScaleSchedule) -> ConcatCache:
    return ConcatCache()


def test_a_session_that_is_over_makes_no_cache(module: ToyModel) -> None:
    """A shallow copy of the model that was made inside the block cannot generate after it."""
    with compress(module, "toy-latest", registry=TOY), torch.no_grad():
        module.draw(torch.tensor([1]))
        shallow = copy.copy(module)
        shallow.draw(torch.tensor([1]))
    with pytest.raises(SessionError, match="the block in which this model had policy 'toy-latest' is over, and a copy"):
        shallow.draw(torch.tensor([1]))
    module.draw(torch.tensor([1]))


def test_images_may_be_generated_in_any_thread_one_after_the_other(model: ToyImageModel) -> None:
    """Every thread generates the same image."""
    with compress(model, "toy-latest", "2 tokens", registry=TOY):
        expected = draw(model, 1)
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                assert same(expected, pool.submit(draw, model, 1).result())


def test_two_threads_at_once_are_one_clear_error(module: ToyModel) -> None:
    """The image that began last goes on; the other one ends in one line, and none of its tokens reaches that cache."""
    q = torch.randn(1, 4, 1, 8)
    with (
        compress(module, "toy-latest", registry=TOY),
        torch.no_grad(),
        ThreadPoolExecutor(1, thread_name_prefix="second") as second,
    ):
        mine = module.new_cache(module.schedule)
        mine.attend(0, q, q, q, softmax_scale=1.0)
        theirs = second.submit(module.new_cache, module.schedule).result()
        with pytest.raises(SessionError, match=r"is over: .* another image was begun \(perhaps in another thread\)"):
            mine.attend(1, q, q, q, softmax_scale=1.0)
        with pytest.raises(
            SessionError, match=r"was begun in thread 'second_0' and goes on in 'MainThread'; generate with"
        ):
            theirs.attend(0, q, q, q, softmax_scale=1.0)
        second.submit(theirs.attend, 0, q, q, q, softmax_scale=1.0).result()
        module.draw(torch.tensor([1]))


def test_a_model_is_attached_in_one_thread(model: ToyImageModel) -> None:
    """A second block on the same model is refused, whichever thread asks."""

    def attach() -> None:
        with compress(model, "toy-latest", registry=TOY):
            raise AssertionError("the block was entered")

    with compress(model, "toy-latest", registry=TOY), ThreadPoolExecutor(1) as pool:
        with pytest.raises(SessionError, match="is already attached to 'toy-latest'"):
            pool.submit(attach).result()
        draw(model)


def test_of_two_threads_that_attach_at_once_one_is_refused() -> None:
    """Both threads are in the middle of attaching; one is refused, the other generates, and the model is restored."""
    module, both = ToyModel().eval(), threading.Barrier(2)

    class Slow(toy.ToyAdapter):
        """Waits for the other thread before it attaches, for a limited time."""

        def attach(self, model: nn.Module, source: CacheSource) -> Callable[[], None]:
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.5)
            return super().attach(model, source)

    class Plugin:
        @hookimpl
        def scalekv_model_adapters(self) -> dict[str, Callable[[], ModelAdapter]]:
            return {"slow": Slow}

    def generate() -> str:
        try:
            with compress(module, toy.latest(), registry=registry) as session, torch.inference_mode():
                module.draw(torch.tensor([1]))
            return str(len(session.report().images))
        except SessionError as error:
            return str(error)

    registry, before = Registry.of(Plugin()), module.new_cache
    with ThreadPoolExecutor(2) as pool:
        said = sorted(future.result() for future in [pool.submit(generate) for _ in range(2)])

    assert ["1", "this ToyModel is already attached to 'toy-latest'; leave that block first"] == said
    assert before == module.new_cache


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budget": "0GiB"}, BudgetError, "holds nothing"),
        ({"policy": "toy-last"}, UnknownName, "did you mean 'toy-latest'"),
        ({"selector": "toy-lates"}, UnknownName, "no selector is called 'toy-lates'; did you mean 'toy-latest'"),
        ({"selector": 3}, InputError, "must be a name or a TokenSelector; got 3"),
        ({"options": {"window": 3}}, InputError, "policy 'toy-latest' has no option 'window'"),
        ({"budget": "lots"}, BudgetError, "budget 'lots' is not understood"),
        ({"budget": "0%"}, BudgetError, "holds nothing"),
        (
            {"budget": "101%"},
            BudgetError,
            "more than the whole history: later scales attend to at most 9 of the 29 tokens",
        ),
        ({"budget": "10 tokens"}, BudgetError, "more than the whole history"),
    ],
)
def test_what_cannot_be_done_is_refused_before_drawing(
    model: ToyImageModel, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The session refuses on entering the block, in one line."""
    with pytest.raises(error, match=message), compress(model, **{"policy": "toy-latest", "registry": TOY, **arguments}):
        raise AssertionError("the block was entered")


@pytest.mark.parametrize("thing", [None, "toy", 3, object(), ToyModel], ids=lambda thing: type(thing).__name__)
def test_what_is_no_model_is_refused(thing: object) -> None:
    """The message says what it was given."""
    with (
        pytest.raises(SessionError, match="compress needs a torch module or an image model; got"),
        compress(thing, registry=TOY),
    ):
        pass


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (partial(torch.compile, backend="eager"), "^this OptimizedModule wraps a ToyModel; give compress the inner module, .* attribute '_orig_mod'$"),
        (nn.DataParallel, "^this DataParallel wraps a ToyModel; give compress the inner module, .* attribute 'module'$"),
    ],
)  # fmt: skip
def test_a_wrapper_says_which_module_is_meant(module: ToyModel, wrap: Callable[..., nn.Module], message: str) -> None:
    """The module that the message names works."""
    with pytest.raises(SessionError, match=message), compress(wrap(module), "toy-latest", registry=TOY):
        raise AssertionError("the block was entered")


def test_an_unknown_model_is_refused() -> None:
    """The message lists the adapters and says where to read more."""
    with (
        pytest.raises(SessionError, match=r"no adapter knows a Linear; installed adapters: toy; docs/adapters\.md"),
        compress(nn.Linear(2, 2), "toy-latest", registry=TOY),
    ):
        pass


def test_a_model_that_was_not_called_is_an_error(model: ToyImageModel) -> None:
    """The most common mistake: another instance generated, so that the attached model was never called."""
    other = cast(ToyImageModel, toy.ToyCard().load())
    with (
        pytest.raises(
            SessionError, match=r"was attached, but no image was completed .* was another model instance called\?"
        ),
        compress(model, "toy-latest", registry=TOY),
    ):
        draw(other)


def test_an_error_in_the_block_is_not_covered_up(model: ToyImageModel) -> None:
    """Where the block fails, the session raises the block's error, not that nothing was generated."""
    with pytest.raises(ZeroDivisionError), compress(model, "toy-latest", registry=TOY):
        1 / 0  # noqa: B018


def test_a_policy_that_should_have_dropped_is_an_error(model: ToyImageModel) -> None:
    """The plan evicts, but the image saw no eviction: something between model and cache was bypassed."""
    with compress(model, "toy-latest", registry=TOY) as session:
        draw(model)
        session.check_used()
        (image,) = session._images
        session._images[0] = evolve(image, dropped=False)
        with pytest.raises(SessionError, match="should have dropped tokens under 50% of history and dropped none"):
            session.check_used()
        session._images[0] = image


@frozen
class NoHistory(TokenSelector):
    """Keeps no token, and says so."""

    def least(self, schedule: ScaleSchedule, scale: int) -> int:
        return 0

    def select(self, view: CacheView, keep: int) -> Tensor:
        raise AssertionError("there is nothing to select")


def test_holding_nothing_is_dropping(model: ToyImageModel) -> None:
    """A policy may keep no history: it drops everything without ever selecting."""
    with compress(model, "toy-latest", "0.5 tokens", selector=NoHistory(), registry=TOY) as session:
        draw(model)

    assert session.report().images[0].dropped
    assert (0, 0, 0, 0) == session.report().images[0].resident


@frozen
class Needy(TokenSelector):
    """Cannot work with fewer than three tokens."""

    def least(self, schedule: ScaleSchedule, scale: int) -> int:
        return 3

    def select(self, view: CacheView, keep: int) -> Tensor:
        assert keep >= 3
        return toy.Latest().select(view, keep)


def test_the_least_budget_that_is_named_works(model: ToyImageModel) -> None:
    """The budget that the message names works, and one token less does not."""
    with (
        pytest.raises(
            BudgetError,
            match=r"^budget 1 token is too small for policy 'toy-latest selector=Needy': "
            r"after scale 1 a head of layer 0 would hold 1 token, and selector Needy needs at least 3; the least that works here is '3 tokens' \(33\.34% of history\)$",
        ),
        compress(model, "toy-latest", "1 token", selector=Needy(), registry=TOY),
    ):
        pass
    with (
        pytest.raises(BudgetError, match="'3 tokens'"),
        compress(model, "toy-latest", "2 tokens", selector=Needy(), registry=TOY),
    ):
        pass
    with compress(model, "toy-latest", "3 tokens", selector=Needy(), registry=TOY):
        draw(model)


def test_bytes_are_of_the_batch_that_is_drawn(model: ToyImageModel) -> None:
    """Bytes that hold more than everything for one image are a real limit for eight, and the other way round."""
    with compress(model, "toy-latest", "8KB", registry=TOY, check=True) as session:
        draw(model, *range(8))
    (image,) = session.report().images
    assert image.dropped
    assert max(image.resident) <= 8000

    with (
        pytest.raises(BudgetError, match="more than the whole history"),
        compress(model, "toy-latest", "8KB", registry=TOY),
    ):
        draw(model)
    with pytest.raises(BudgetError, match="is too small"), compress(model, "toy-latest", "1KB", registry=TOY):
        draw(model, 1, 2)


# -- profiles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["50%", "8KB"])
@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (None, "needs an attention profile of the model; make one with: scalekv calibrate --model toy"),
        (
            profile_of(name="var-d16"),
            "was measured on 'var-d16', the model is 'toy'; make one with: scalekv calibrate --model toy",
        ),
        (profile_of(layers=2), "was measured on 2 layers x 4 heads, the model has 3 x 4"),
        (profile_of(heads=8), "was measured on 3 layers x 8 heads, the model has 3 x 4"),
        (profile_of(OTHER_SCHEDULE), "was measured with maps 1x1 1x3 3x3, the image has 1x1 2x1 2x3 4x5"),
    ],
    ids=["missing", "another model", "fewer layers", "more heads", "another schedule"],
)
def test_a_profile_is_of_this_very_model(
    model: ToyImageModel, profile: AttentionProfile | None, message: str, budget: str
) -> None:
    """A missing profile or one of another model is refused on entering, with the command that makes the right one."""
    with (
        pytest.raises(ProfileError, match=message),
        compress(model, "toy-latest", budget, classifier=ByProfile(), profile=profile, registry=TOY),
    ):
        raise AssertionError("the block was entered")


def test_a_models_own_profile_is_used(model: ToyImageModel) -> None:
    """The model's own profile is used unless the user gives another one."""
    model.profile = profile_of()
    with compress(model, "toy-latest", classifier=ByProfile(), registry=TOY):
        draw(model)
    with (
        pytest.raises(ProfileError, match="'another'"),
        compress(model, "toy-latest", classifier=ByProfile(), profile=profile_of(name="another"), registry=TOY),
    ):
        pass


def test_a_profile_of_another_schedule_is_refused_where_it_matters(module: ToyModel) -> None:
    """An image of another schedule is refused at its first map; the model's own schedule goes on working."""
    with (
        compress(module, "toy-latest", classifier=ByProfile(), profile=profile_of(), registry=TOY),
        torch.no_grad(),
    ):
        module.schedule = OTHER_SCHEDULE
        with pytest.raises(ProfileError, match="was measured with maps 1x1 2x1 2x3 4x5, the image has 1x1 1x3 3x3"):
            module.draw(torch.tensor([1]))
        module.schedule = toy.SCHEDULE
        module.draw(torch.tensor([1]))


@frozen
class Wandering(toy.ToyAdapter):
    """An adapter for models whose caller chooses the schedule of each image."""

    schedule_varies = True


def test_what_a_policy_needs_is_decided_when_the_schedule_is_known(module: ToyModel) -> None:
    """With two profiles and a budget too large for the model's own schedule, each image is checked by itself."""
    registry = Registry.of(evolve_toy(adapter=Wandering))
    small, large = ScaleSchedule([(1, 1), (1, 3)]), ScaleSchedule([(1, 1), (4, 4), (2, 2)])
    profiles = [profile_of(large, name="m"), profile_of(small, name="m")]
    module.schedule = small
    policy = evolve(toy.latest(), classifier=ByProfile())
    with compress(module, policy, "12 tokens", profile=profiles, registry=registry) as session, torch.no_grad():
        module.schedule = large
        module.draw(torch.tensor([1]))
        module.schedule = small
        with pytest.raises(
            BudgetError, match=r"budget 12 tokens is more than the whole history: .* at most 1 of the 4"
        ):
            module.draw(torch.tensor([1]))
        module.schedule = OTHER_SCHEDULE
        with pytest.raises(ProfileError, match="no profile was measured with maps 1x1 1x3 3x3; those given were"):
            module.draw(torch.tensor([1]))
    assert [large] == [image.planned.geometry.schedule for image in session.report().images]


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (None, "needs an attention profile of the model"),
        (profile_of(heads=8), "3 layers x 8 heads, the model has 3 x 4"),
    ],
    ids=["missing", "more heads"],
)
def test_what_no_schedule_can_mend_is_refused_at_once(module: ToyModel, profile: Any, message: str) -> None:
    """A missing profile and one of another model are refused on entering."""
    registry = Registry.of(evolve_toy(adapter=Wandering))
    policy = evolve(toy.latest(), classifier=ByProfile())
    with pytest.raises(ProfileError, match=message), compress(module, policy, profile=profile, registry=registry):
        raise AssertionError("the block was entered")


# -- faults of adapters -------------------------------------------------------------------------------------------


@frozen
class Mistaken(toy.ToyAdapter):
    """Describes another shape than attention has."""

    def geometry(self, model: nn.Module) -> CacheGeometry:
        return evolve(super().geometry(model), heads=2)


def test_an_adapter_with_the_wrong_shape_is_found_out(model: ToyImageModel) -> None:
    """The session finds out at the first map, from the tensors of attention."""
    with (
        pytest.raises(SessionError, match=r"the adapter reported 2 heads of width 8; .* = \(1, 4, 1, 8\)"),
        compress(model, toy.latest(), registry=Registry.of(evolve_toy(adapter=Mistaken))),
    ):
        draw(model)


@frozen
class Grouped(toy.ToyAdapter):
    """Describes two query heads for each key/value head, where there is one."""

    def geometry(self, model: nn.Module) -> CacheGeometry:
        return evolve(super().geometry(model), group=2)


def test_an_adapter_with_the_wrong_groups_is_found_out(model: ToyImageModel) -> None:
    """The session compares the query heads, too."""
    with (
        pytest.raises(SessionError, match="the adapter reported 8 query heads; attention came with 4"),
        compress(model, toy.latest(), registry=Registry.of(evolve_toy(adapter=Grouped))),
    ):
        draw(model)


def test_a_policy_that_breaks_its_contract_stops_the_image(model: ToyImageModel) -> None:
    """The error leaves the model usable."""

    class Greedy(toy.Latest):
        def select(self, view: CacheView, keep: int) -> Tensor:
            return super().select(view, keep + 1)

    policy = Policy(name="greedy", allocator=toy.Even(), selector=Greedy(), budget="50%")
    with (
        pytest.raises(ContractError, match="selector Greedy of policy 'greedy', layer 0 at scale 2"),
        compress(model, policy, registry=TOY),
    ):
        draw(model)
    with compress(model, "toy-latest", registry=TOY):
        draw(model)


@pytest.mark.parametrize("short", [1, 0])
def test_a_cache_larger_than_what_is_free_is_refused_at_the_first_map(
    model: ToyImageModel, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused image leaves nothing behind, and the next one can be generated; exactly enough memory is enough."""
    with compress(model, "toy-latest", registry=TOY) as session:
        weighs = session.planned(session.geometry.schedule, rows=1).footprint
        free = weighs.most_planned + weighs.scratch - short
        monkeypatch.setattr("scalekv_core.session.image_cache.free_memory", lambda device: free)
        if short:
            with pytest.raises(
                InputError, match=r"'toy-latest' at 50% of history on cpu needs .* for 1 row\), and .* are free"
            ):
                draw(model)
        monkeypatch.setattr("scalekv_core.session.image_cache.free_memory", lambda device: None if short else free)
        draw(model)
