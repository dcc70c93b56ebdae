"""Checks that a strategy keeps no state from one question to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from scalekv_core.testing.common import all_same
from scalekv_core.testing.state import Contents


@contextlib.contextmanager
def forgotten(strategy: Any) -> Iterator[Contents]:
    """A block after which the strategy's instance, class and module hold what they held before; gives that."""
    untouched = Contents.of(strategy)
    try:
        yield untouched
    finally:
        untouched.restore()


def repeats(make: Callable[[], Any], answer: Callable[[Any], list[Tensor]], what: str) -> None:
    """The same question gets the same answer, from the same and from an equal strategy; ``what`` is as in "other codes"."""
    strategy = make()
    first = answer(strategy)
    assert all_same(first, answer(strategy)), f"the second call gives {what}"
    assert all_same(first, answer(make())), f"an equal one gives {what}"


def remembers_nothing(
    strategy: Any, answer: Callable[[], list[Tensor]], others: Iterable[Callable[[], object]], what: str
) -> None:
    """After each of the other questions the answer is what it would have been as the very first."""
    with forgotten(strategy) as untouched:
        first = answer()
        for other in others:
            untouched.restore()
            other()
            assert all_same(first, answer()), f"after another question the same one gets {what}"


def keeps_nothing(strategy: Any, act: Callable[[int], object], each: str) -> None:
    """Nothing of an image stays in the strategy; only what its shape decides, which is there after two images, may.

    Args:
        strategy: is looked at from outside.
        act: what is done with it, for a seed.
        each: what each seed stands for.
    """
    act(0)
    act(1)
    before = Contents.of(strategy)
    act(2)
    changed = before.changes(Contents.of(strategy))
    assert not changed, f"every {each} changes what {changed[0]} holds"
