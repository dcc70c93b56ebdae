"""Shared by all checks: comparing bits, global random generators, and exceptions for checks that do not apply."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import attrs
import numpy as np
import torch
from torch import Tensor, nn

Anything = TypeVar("Anything")


class NotApplicable(Exception):
    """The check does not apply to this case."""


class Refused(NotApplicable):
    """The strategy refuses this case, as it may, for example because the budget is too small. Refusals are counted."""


class NeverApplies(NotApplicable):
    """The check does not apply to this strategy at all."""


class Blocked(NeverApplies):
    """The check cannot run because another check fails; if that one passes, this one fails.

    Attributes:
        by: the name of the other check.
    """

    def __init__(self, by: str, reason: str) -> None:
        super().__init__(f"see {by}: {reason}")
        self.by = by
        self.reason = reason


def only_if(applies: Callable[[Any], bool], otherwise: str) -> Callable[[Anything], Anything]:
    """Marks a check that applies only to some strategies of its kind, with the reason why not to others."""

    def mark(check: Anything) -> Anything:
        check.only_if = (applies, otherwise)  # type: ignore[attr-defined]
        return check

    return mark


def made_on_few(share: int, *, real_sizes: int | None = None) -> Callable[[Anything], Anything]:
    """Marks a slow check: it runs on one in ``share`` cases, and on so many of real size."""

    def mark(check: Anything) -> Anything:
        check.share = share  # type: ignore[attr-defined]
        check.real_sizes = real_sizes  # type: ignore[attr-defined]
        return check

    return mark


_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether shape, dtype and every bit agree (nan is nan), however the tensors lie in memory."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    words = _SAME_SIZE[one.dtype.itemsize]
    return torch.equal(one.view(words), other.view(words))


def all_same(ones: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two lists of tensors agree bit by bit."""
    return len(ones) == len(others) and all(map(same_bits, ones, others))


def rounding(x: Tensor) -> Tensor:
    """The rounding error of numbers near each of x in its dtype, subnormal ones included."""
    info = torch.finfo(x.dtype)
    return (x.float().abs() + info.tiny) * info.eps


def refused(answer: object) -> str:
    """Describes what was returned instead of a tensor."""
    return f"{answer.dtype} of shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__


def check_value(make: Callable[[], Any]) -> None:
    """A strategy is a frozen value: its options are its fields, equal options are equal, it holds no tensors."""
    made, twin = make(), make()
    name = type(made).__name__
    assert attrs.has(type(made)), (
        f"{name} is no attrs class; decorate it with @attrs.frozen, its fields are its options"
    )
    with contextlib.suppress(attrs.exceptions.FrozenInstanceError):
        made.anything = 0
        raise AssertionError(f"{name} can be written to; decorate it with @attrs.frozen")
    assert made == twin, f"two {name} with the same options are not equal"
    try:
        assert hash(made) == hash(twin), f"two equal {name} have different hashes"
    except TypeError as error:
        raise AssertionError(f"{name} cannot be hashed ({error}); make its options numbers, texts or tuples") from None
    for option in attrs.fields(type(made)):
        value = getattr(made, option.name)
        assert not isinstance(value, (Tensor, np.ndarray, nn.Module, torch.Generator)), (
            f"{name}.{option.name} holds a {type(value).__name__}; state and tensors live in the cache"
        )


def check_randomness(act: Callable[[], list[Tensor]]) -> None:
    """The act gives the same whatever the global generators stand at, and leaves them where they stood."""
    answers = []
    with restored_randomness():
        for seed in (1, 2):
            _seed_everything(seed)
            before = _states()
            answers.append(act())
            touched = [name for name, state in _states().items() if state != before[name]]
            assert not touched, f"it uses the global generator of {', '.join(touched)}; use one of its own, on the CPU"
    assert all_same(*answers), "it gives something else when the global seeds are other ones"


@contextlib.contextmanager
def restored_randomness() -> Iterator[None]:
    """A block after which the global generators are restored."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _states() -> Mapping[str, Any]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(tuple(np.random.get_state())[1:]),
        "random": random.getstate(),
    }
