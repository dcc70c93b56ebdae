"""What selectors and mergers, which look at a view, are both checked for: rows and heads are independent, nothing is
remembered, nothing is written to."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch
from attrs import evolve
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import ImageCase, ViewCase
from scalekv_core.testing.checks import whole
from scalekv_core.testing.checks.asking import (
    TENSORS,
    Viewer,
    answer,
    ask,
    ask_in_every_way,
    by_halves,
    mapped,
    view_of,
)
from scalekv_core.testing.checks.remembering import forgotten, keeps_nothing, remembers_nothing, repeats
from scalekv_core.testing.checks.viewers_cost import TIMED
from scalekv_core.testing.common import NotApplicable, all_same, check_randomness, check_value, made_on_few, same_bits
from scalekv_core.testing.elsewhere import agrees_elsewhere
from scalekv_core.testing.manners import in_inference_mode, quietly

Make = Callable[[], Viewer]
NOISE = 1e-6
"""How much numbers may be off by rounding in another batch, relatively."""


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class without tensors: one strategy can serve many models at once."""
    check_value(make)


def check_rows_permute(make: Make, case: ViewCase) -> None:
    """Rows in another order get the answers in that order: an image does not depend on its place in the batch."""
    case = case.with_several(rows=3)
    view, order = view_of(make(), case), torch.arange(case.rows).flip(0)
    expected = [x[order] for x in answer(make(), case, view)]
    actual = answer(make(), case, mapped(view, lambda x: x[order]))
    assert all_same(expected, actual), "with the rows of the batch in reverse order, a row gets another answer"


def check_rows_are_apart(make: Make, case: ViewCase) -> None:
    """A row gets the same answer alone and in a batch: an image does not depend on the images beside it."""
    case = case.with_several(rows=2)
    view = view_of(make(), case)
    together = answer(make(), case, view)
    for row in range(case.rows):
        part = mapped(view, lambda x, row=row: x[row : row + 1])  # type: ignore[misc]
        expected = [x[row : row + 1] for x in together]
        assert agree(make, case, part, expected), (
            f"row {row} of {case.rows} gets another answer when it is alone in the batch"
        )


def check_heads_are_apart(make: Make, case: ViewCase) -> None:
    """A head gets the same answer alone and in a group: the cache decides which heads are stored together."""
    case = case.with_several(heads=2)
    view = view_of(make(), case)
    together = answer(make(), case, view)
    for head in range(case.heads):
        part = mapped(view, lambda x, head=head: x[:, head : head + 1], heads=view.heads[head : head + 1])  # type: ignore[misc]
        expected = [x[:, head : head + 1] for x in together]
        assert agree(make, case, part, expected), (
            f"head {head} of {case.heads} gets another answer when it is alone in its group"
        )


def agree(make: Make, case: ViewCase, part: CacheView, expected: list[Tensor]) -> bool:
    """Whether the answer to a part of the view is the expected one, but for what rounding decides.

    torch may compute a batch by another kernel, which rounds otherwise. Real numbers may differ by that much; choices only
    where a noise of the same size changes the answer, too.
    """
    actual = answer(make(), case, part)
    if all_same(expected, actual):
        return True
    if [x.shape for x in expected] != [x.shape for x in actual]:
        return False
    numbers = [(x, y) for x, y in zip(expected, actual, strict=True) if x.is_floating_point()]
    if not all(_near(x, y) for x, y in numbers):
        return False
    off = _different(expected, actual)
    return off <= 4 * _undecided(make, case, part)


def _near(one: Tensor, other: Tensor) -> bool:
    largest = float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * largest, equal_nan=True)


def _different(ones: list[Tensor], others: list[Tensor]) -> int:
    """In how many places choices differ."""
    return sum(int((x != y).sum()) for x, y in zip(ones, others, strict=True) if not x.is_floating_point())


def _undecided(make: Make, case: ViewCase, part: CacheView) -> int:
    """How many choices a noise of the size of rounding changes, in float32."""
    wide = evolve(part, q=part.q.float(), k=part.k.float(), v=part.v.float())
    still, most = answer(make(), case, wide), 0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)

        def noisy(x: Tensor, generator: torch.Generator = generator) -> Tensor:
            return x * (1 + NOISE * torch.randn(x.shape, generator=generator))

        moved = evolve(wide, q=noisy(wide.q), k=noisy(wide.k), v=noisy(wide.v))
        most = max(most, _different(still, answer(make(), case, moved)))
    return most


def check_repeats_itself(make: Make, case: ViewCase) -> None:
    """The same view gets the same answer, from the same and from an equal strategy, with and without gradients."""
    view = view_of(make(), case)
    repeats(make, lambda strategy: answer(strategy, case, view), "another answer to the same view")
    in_inference_mode(lambda: ask(make(), case))


@made_on_few(2)
def check_remembers_nothing(make: Make, case: ViewCase) -> None:
    """The answer does not depend on what was asked before: other images, batches, layers and schedules change nothing."""
    strategy = make()
    others = [lambda other=other: _ask_without_failing(strategy, other) for other in _others(case)]
    remembers_nothing(strategy, lambda: ask(strategy, case), others, "another answer")


def _others(case: ViewCase) -> Iterator[ViewCase]:
    """Other images: of the same shape, of another layer, head and scale, of another batch, of another schedule."""
    yield evolve(case, seed=case.seed + 1)
    yield evolve(case, seed=case.seed + 1, layer=case.layer + 3, first=case.first + 2)
    yield evolve(
        case, rows=case.rows + 1, seed=case.seed + 1, layout="permuted", softmax="sharp", counts=not case.counts
    )
    yield evolve(case, maps=ScaleSchedule(case.maps.maps[::-1]), scale=0, held=0)


def _ask_without_failing(strategy: Viewer, case: ViewCase) -> None:
    with contextlib.suppress(NotApplicable):
        if case.tokens > case.keep:
            ask(strategy, case)


@made_on_few(10, real_sizes=1)
def check_keeps_nothing(make: Make, case: ViewCase) -> None:
    """No tensor and no number of an image stays in the strategy, its class or its module: that is memory, or state."""
    strategy = make()
    with forgotten(strategy):
        asked: dict[str, StorageWeakRef] = {}
        keeps_nothing(
            strategy, lambda seed: asked.update(_ask_once(strategy, evolve(case, seed=case.seed + seed))), "image"
        )
        gc.collect()
        held = [name for name, storage in asked.items() if not storage.expired()]
        assert not held, f"it keeps {', '.join(held)} of the view after it has answered"


def _ask_once(strategy: Viewer, case: ViewCase) -> dict[str, StorageWeakRef]:
    """The storages of the view that was asked about, which are no longer needed."""
    view = view_of(strategy, case)
    answer(strategy, case, view)
    tensors = {name: getattr(view, name) for name in TENSORS} | dict(view.statistics)
    return {name: StorageWeakRef(x.untyped_storage()) for name, x in tensors.items() if x is not None}


@made_on_few(4, real_sizes=0)
def check_images_do_not_mix(make: Make, case: ImageCase) -> None:
    """Two images that are generated alternately are what they are one after the other."""
    whole.images_do_not_mix(lambda: whole.policy_around(make()), case)


@made_on_few(10, real_sizes=0)
def check_nothing_is_hoarded(make: Make, case: ImageCase) -> None:
    """While an image is generated, no key or value of an earlier scale stays in memory beside the cache."""
    whole.nothing_is_hoarded(lambda: whole.policy_around(make()), case)


def check_ignores_global_randomness(make: Make, case: ViewCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""
    check_randomness(lambda: ask(make(), case))


def check_leaves_its_input_alone(make: Make, case: ViewCase) -> None:
    """Keys, values and positions are the cache's; nothing of a view is written to, nothing added to its statistics."""
    strategy = make()
    view = view_of(strategy, case)
    untouched = mapped(view, Tensor.clone)
    names = list(view.statistics)
    answer(strategy, case, view)
    by_halves(strategy, case, view)
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


@made_on_few(10, real_sizes=2)
def check_is_quiet(make: Make, case: ViewCase) -> None:
    """It prints nothing, warns of nothing, and leaves the settings of torch and of the process alone."""
    quietly(lambda: ask_in_every_way(make(), case))


def check_another_process_agrees(make: Make) -> None:
    """The same seed gives the same image tomorrow: hashes of texts, ids and the clock are others in every process."""
    cases = [
        ViewCase.parse("maps=2x3,3x4,4x5 scale=1 held=4 keep=7 rows=2 heads=2 width=4 seed=3"),
        ViewCase.parse("maps=3x3,1x5,2x2 scale=1 held=9 keep=6 rows=1 heads=3 width=8 layer=2 seed=4"),
        TIMED,
    ]
    agrees_elsewhere(ask, make, cases, "gives another answer")
