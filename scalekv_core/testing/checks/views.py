"""Checks of everything that looks at a view: rows and heads are independent, nothing is remembered, nothing is written to.

A :class:`Questions` value says how a strategy is made, how a case becomes a view, and what the strategy answers.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from scalekv_core.contracts.view import AttentionMasses, CacheView
from scalekv_core.memory.meter import StorageTracker
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import ViewCase
from scalekv_core.testing.common import Blocked, NotApplicable, all_same, check_randomness, same_bits
from scalekv_core.testing.elsewhere import Ask, digests, elsewhere
from scalekv_core.testing.manners import in_inference_mode, quietly
from scalekv_core.testing.real_sizes import VAR_256
from scalekv_core.testing.state import Contents

TENSORS = ("q", "k", "v", "positions", "counts")
LONG = ViewCase.parse("maps=1x1,64x64,64x64,8x8,1x1 scale=3 held=8193 keep=64 heads=2 width=64 device=meta")
"""Many cached tokens beside a small map that keeps few: what is quadratic in the tokens shows."""
TIMED = ViewCase(maps=VAR_256, scale=8, held=255, keep=64, rows=2, heads=8, width=64)
SECONDS = 1.0
"""Processor time within which the answer to :data:`TIMED` comes; attention over the same view takes a hundredth."""
NOISE = 1e-6
"""How much numbers may be off by rounding in another batch, relatively."""


@frozen
class Questions:
    """How strategies of one kind are asked.

    Attributes:
        make: makes a new strategy.
        view: (strategy, case) -> the view.
        answer: (strategy, case, view) -> tensors.
    """

    make: Callable[[], Any]
    view: Callable[[Any, ViewCase], CacheView]
    answer: Callable[[Any, ViewCase, CacheView], list[Tensor]]

    def ask(self, case: ViewCase) -> list[Tensor]:
        """What a new strategy answers."""
        strategy = self.make()
        return self.answer(strategy, case, self.view(strategy, case))


def mapped(view: CacheView, change: Callable[[Tensor], Tensor], **others: Any) -> CacheView:
    """The view with every tensor changed."""
    tensors = {name: getattr(view, name) for name in TENSORS}
    changed: dict[str, Any] = {name: None if x is None else change(x) for name, x in tensors.items()}
    statistics = {name: change(x) for name, x in view.statistics.items()}
    return evolve(view, **changed, statistics=statistics, masses=AttentionMasses(), **others)


def rows_permute(questions: Questions, case: ViewCase) -> None:
    """The answer for rows in another order is the answer in that order."""
    case = case.with_several(rows=3)
    view, order = questions.view(questions.make(), case), torch.arange(case.rows).flip(0)
    expected = [x[order] for x in questions.answer(questions.make(), case, view)]
    actual = questions.answer(questions.make(), case, mapped(view, lambda x: x[order]))
    assert all_same(expected, actual), "with the rows of the batch in reverse order, a row gets another answer"


def rows_alone(questions: Questions, case: ViewCase) -> None:
    """A row gets the same answer alone and in a batch."""
    case = case.with_several(rows=2)
    view = questions.view(questions.make(), case)
    together = questions.answer(questions.make(), case, view)
    for row in range(case.rows):
        part = mapped(view, lambda x, row=row: x[row : row + 1])  # type: ignore[misc]
        expected = [x[row : row + 1] for x in together]
        assert agree(questions, case, part, expected), (
            f"row {row} of {case.rows} gets another answer when it is alone in the batch"
        )


def heads_alone(questions: Questions, case: ViewCase) -> None:
    """A head gets the same answer alone and in a group."""
    case = case.with_several(heads=2)
    view = questions.view(questions.make(), case)
    together = questions.answer(questions.make(), case, view)
    for head in range(case.heads):
        part = mapped(view, lambda x, head=head: x[:, head : head + 1], heads=view.heads[head : head + 1])  # type: ignore[misc]
        expected = [x[:, head : head + 1] for x in together]
        assert agree(questions, case, part, expected), (
            f"head {head} of {case.heads} gets another answer when it is alone in its group"
        )


def agree(questions: Questions, case: ViewCase, part: CacheView, expected: list[Tensor]) -> bool:
    """Whether the answer to a part of the view is the expected one, but for what rounding decides.

    torch may compute a batch by another kernel, which rounds otherwise. Real numbers may differ by that much; choices only
    where a noise of the same size changes the answer, too.
    """
    actual = questions.answer(questions.make(), case, part)
    if all_same(expected, actual):
        return True
    if [x.shape for x in expected] != [x.shape for x in actual]:
        return False
    numbers = [(x, y) for x, y in zip(expected, actual, strict=True) if x.is_floating_point()]
    if not all(_near(x, y) for x, y in numbers):
        return False
    off = _different(expected, actual)
    return off <= 4 * _undecided(questions, case, part)


def _near(one: Tensor, other: Tensor) -> bool:
    largest = float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * largest, equal_nan=True)


def _different(ones: list[Tensor], others: list[Tensor]) -> int:
    """In how many places choices differ."""
    return sum(int((x != y).sum()) for x, y in zip(ones, others, strict=True) if not x.is_floating_point())


def _undecided(questions: Questions, case: ViewCase, part: CacheView) -> int:
    """How many choices a noise of the size of rounding changes, in float32."""
    wide = evolve(part, q=part.q.float(), k=part.k.float(), v=part.v.float())
    still, most = questions.answer(questions.make(), case, wide), 0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)

        def noisy(x: Tensor, generator: torch.Generator = generator) -> Tensor:
            return x * (1 + NOISE * torch.randn(x.shape, generator=generator))

        moved = evolve(wide, q=noisy(wide.q), k=noisy(wide.k), v=noisy(wide.v))
        most = max(most, _different(still, questions.answer(questions.make(), case, moved)))
    return most


def repeats(questions: Questions, case: ViewCase) -> None:
    """Asked twice, and asked of an equal strategy, the answer is the same; also as a model asks, without gradients."""
    strategy = questions.make()
    view = questions.view(strategy, case)
    first = questions.answer(strategy, case, view)
    assert all_same(first, questions.answer(strategy, case, view)), (
        "the second call with the same view gives another answer"
    )
    equal = questions.answer(questions.make(), case, view)
    assert all_same(first, equal), "an equal strategy gives another answer to the same view"
    in_inference_mode(lambda: questions.ask(case))


def remembers_nothing(questions: Questions, case: ViewCase) -> None:
    """The answer after other images is what it would have been as the very first answer."""
    strategy = questions.make()
    untouched = Contents.of(strategy)
    try:
        first = questions.answer(strategy, case, questions.view(strategy, case))
        for other in _others(case):
            untouched.restore()
            _ask_without_failing(questions, strategy, other)
            again = questions.answer(strategy, case, questions.view(strategy, case))
            assert all_same(first, again), "after another image, batch or schedule the same view gets another answer"
    finally:
        untouched.restore()


def _others(case: ViewCase) -> Iterator[ViewCase]:
    """Other images: of the same shape, of another layer, head and scale, of another batch, of another schedule."""
    yield evolve(case, seed=case.seed + 1)
    yield evolve(case, seed=case.seed + 1, layer=case.layer + 3, first=case.first + 2)
    yield evolve(
        case, rows=case.rows + 1, seed=case.seed + 1, layout="permuted", softmax="sharp", counts=not case.counts
    )
    yield evolve(case, maps=ScaleSchedule(case.maps.maps[::-1]), scale=0, held=0)


def _ask_without_failing(questions: Questions, strategy: Any, case: ViewCase) -> None:
    with contextlib.suppress(NotApplicable):
        if case.tokens > case.keep:
            questions.answer(strategy, case, questions.view(strategy, case))


def keeps_nothing(questions: Questions, case: ViewCase) -> None:
    """Nothing of an image stays in the strategy, its class or its module; only what its shape decides may."""
    strategy = questions.make()
    untouched = Contents.of(strategy)
    try:
        for seed in (0, 1):
            _ask_once(questions, strategy, evolve(case, seed=case.seed + seed))
        before = Contents.of(strategy)
        alive = _ask_once(questions, strategy, evolve(case, seed=case.seed + 2))
        changed = before.changes(Contents.of(strategy))
        assert not changed, f"every image changes what {changed[0]} holds"
        gc.collect()
        held = [name for name, storage in alive.items() if not storage.expired()]
        assert not held, f"it keeps {', '.join(held)} of the view after it has answered"
    finally:
        untouched.restore()


def _ask_once(questions: Questions, strategy: Any, case: ViewCase) -> dict[str, StorageWeakRef]:
    """The storages of the view that was asked about, which are no longer needed."""
    view = questions.view(strategy, case)
    questions.answer(strategy, case, view)
    tensors = {name: getattr(view, name) for name in TENSORS} | dict(view.statistics)
    return {name: StorageWeakRef(x.untyped_storage()) for name, x in tensors.items() if x is not None}


def ignores_randomness(questions: Questions, case: ViewCase) -> None:
    """Global generators are neither read nor moved."""
    check_randomness(lambda: questions.ask(case))


def leaves_its_input(questions: Questions, case: ViewCase) -> None:
    """No tensor of the view is written to, and nothing is added to or taken from its statistics."""
    strategy = questions.make()
    view = questions.view(strategy, case)
    untouched = mapped(view, Tensor.clone)
    names = list(view.statistics)
    questions.answer(strategy, case, view)
    for name in TENSORS:
        mine, theirs = getattr(untouched, name), getattr(view, name)
        assert mine is None or same_bits(mine, theirs), f"it writes to {name} of the view"
    assert names == list(view.statistics), "it changes which statistics the view has"
    for name in names:
        assert same_bits(untouched.statistics[name], view.statistics[name]), f"it writes to statistic {name!r}"
    for queries, mass in view.masses:
        assert same_bits(untouched.attention_mass(queries), mass), (
            "it writes to what attention_mass gave, which others get too"
        )


def stays_on_the_device(questions: Questions, case: ViewCase) -> None:
    """It runs on tensors that have no values, and answers where they are."""
    strategy = questions.make()
    nowhere = mapped(questions.view(strategy, case), lambda x: x.to("meta"))
    try:
        with _generators_on_meta():
            answers = questions.answer(questions.make(), case, nowhere)
    except NotApplicable:
        raise
    except Exception as error:
        raise AssertionError(
            "on tensors without values (device meta) it fails: it asks what a tensor holds, which makes the host wait, "
            f"or makes tensors on another device ({type(error).__name__}: {error})"
        ) from error
    for answer in answers:
        assert answer.device.type == "meta", f"its answer to tensors on device meta is on {answer.device}"


class _WithoutGenerators(TorchFunctionMode):
    """Random numbers on the meta device, which knows no generators, are made without one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device") or next((x.device for x in args if isinstance(x, Tensor)), "cpu")
        if torch.device(device).type == "meta":
            kwargs.pop("generator", None)
        return func(*args, **kwargs)


@contextlib.contextmanager
def _generators_on_meta() -> Iterator[None]:
    """A block in which a strategy may use a generator of its own on whatever device its view is."""
    own = torch.Generator

    class OnCpu(own):  # type: ignore[misc,valid-type]  # a class, since whatever is imported meanwhile may want one
        def __new__(cls, device: Any = "cpu") -> Any:
            return own.__new__(own, "cpu" if torch.device(device).type == "meta" else device)  # type: ignore[call-arg]

    torch.Generator = OnCpu  # type: ignore[misc]
    try:
        with torch.random.fork_rng(devices=[]), _WithoutGenerators():
            yield
    finally:
        torch.Generator = own  # type: ignore[misc]


def memory_is_linear(questions: Questions) -> None:
    """Temporary memory grows with the cached tokens, not with their square."""
    strategy, case = questions.make(), LONG
    view = mapped(evolve(case, device="cpu", width=1).view(), lambda x: x.to("meta"))
    k = torch.empty(*view.k.shape[:3], case.width, device="meta")
    statistics = {name: torch.empty(k.shape[:3], device="meta") for name in getattr(strategy, "statistics", ())}
    view = evolve(view, q=k[:, :, : view.current], k=k, v=torch.empty_like(k), statistics=statistics)
    try:
        with _generators_on_meta(), StorageTracker() as tracker:
            questions.answer(strategy, case, view)
    except NotApplicable:
        raise
    except Exception as error:
        raise Blocked("stays_on_the_device", str(error)) from error
    linear = case.heads * case.tokens * (view.current + case.keep + case.width)
    most = 24 * linear + 2**24
    square = case.heads * case.tokens**2
    assert tracker.peak <= most, (
        f"with {case.tokens} cached tokens it takes {tracker.peak / 2**20:.0f} MiB at once; "
        f"a number for every pair of tokens is {4 * square / 2**20:.0f} MiB, what is linear at most {most / 2**20:.0f}"
    )


def is_quick(questions: Questions) -> None:
    """It takes no longer than a few hundred times the attention over the same view."""
    strategy = questions.make()
    view = questions.view(strategy, TIMED)
    taken = []
    for _ in range(2):
        start = time.thread_time()
        questions.answer(strategy, TIMED, evolve(view, masses=AttentionMasses()))
        taken.append(time.thread_time() - start)
    assert min(taken) <= SECONDS, (
        f"it takes {min(taken):.1f} s for {TIMED.tokens} tokens in {TIMED.heads} heads of {TIMED.rows} rows; "
        f"at most {SECONDS:g} s"
    )


def is_quiet(questions: Questions, case: ViewCase) -> None:
    """It prints nothing, warns of nothing, and leaves the settings of torch and of the process alone."""
    quietly(lambda: questions.ask(case))


def agrees_elsewhere(make: Callable[[], Any], ask: Ask) -> None:
    """Another process answers the same."""
    cases = [
        ViewCase.parse("maps=2x3,3x4,4x5 scale=1 held=4 keep=7 rows=2 heads=2 width=4 seed=3"),
        ViewCase.parse("maps=3x3,1x5,2x2 scale=1 held=9 keep=6 rows=1 heads=3 width=8 layer=2 seed=4"),
        TIMED,
    ]
    assert digests(ask, make, cases) == elsewhere(ask, make, cases), (
        "another process gives another answer: it depends on the hash of a text, on an id or on the clock"
    )
