"""How a model chooses tokens: what two runs must share to be compared."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from attrs import Attribute, field, frozen

from scalekv_core.errors import InputError, shortened
from scalekv_core.shapes.values import is_whole

ON_LOGITS = 0
"""The place where every family applies guidance."""


def _wants(text: str, fits: Callable[[Any], bool]) -> Callable[[Any, Attribute[Any], Any], None]:
    """An attrs validator that refuses in one line what does not fit."""

    def check(instance: Any, attribute: Attribute[Any], value: Any) -> None:
        if not fits(value):
            raise InputError(f"sampling needs {attribute.name} {text}; got {value!r}")

    return check


def _are_places(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(is_whole, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return is_whole(value, 0)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_temperature(value: Any) -> bool:
    return _is_number(value) and 0 < value < inf


def _is_strength(value: Any) -> bool:
    several = value if isinstance(value, tuple) else (value,)
    return bool(several) and all(_is_number(strength) and 0 <= strength < inf for strength in several)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@frozen(kw_only=True)
class Sampling:
    """How a model chooses tokens. Two runs are compared only if these are equal.

    Attributes:
        guidance: strength of classifier-free guidance, for all scales or one per scale; 0 generates without guidance.
        top_k: how many of the most probable values compete; 0 means all.
        top_p: how much probability the competing values may hold together; 0 means all.
        temperature: divides the logits.
        greedy: take the most probable value; seeds have no effect.
        guidance_at: where guidance is applied, in models that know several places: 0 is on the logits, others are the
            family's own.

    Raises:
        InputError: a value is out of its range.

    >>> Sampling(top_p=1.5)
    Traceback (most recent call last):
    scalekv_core.errors.InputError: sampling needs top_p from 0 to 1 (0 lets all compete); got 1.5
    """

    guidance: float | tuple[float, ...] = field(
        default=0.0, converter=_as_tuple, validator=_wants("at least 0 (0 generates without)", _is_strength)
    )
    top_k: int = field(default=0, validator=_wants("at least 0, whole (0 lets all compete)", _is_count))
    top_p: float = field(default=0.0, validator=_wants("from 0 to 1 (0 lets all compete)", _is_share))
    temperature: float = field(default=1.0, validator=_wants("above 0 (see greedy)", _is_temperature))
    greedy: bool = field(default=False, validator=_wants("True or False", lambda value: isinstance(value, bool)))
    guidance_at: tuple[int, ...] = field(
        default=(ON_LOGITS,),
        converter=_as_tuple,
        validator=_wants("a list of whole numbers (0 is the logits)", _are_places),
    )

    @property
    def strengths(self) -> tuple[float, ...]:
        """The guidance as a tuple: of one number for all scales, or of one per scale."""
        return self.guidance if isinstance(self.guidance, tuple) else (self.guidance,)

    def check_guided_on_logits(self, who: str = "the model") -> None:
        """Raises InputError if guidance is applied anywhere else than on the logits.

        >>> Sampling(guidance_at=(0, -5)).check_guided_on_logits()
        Traceback (most recent call last):
        scalekv_core.errors.InputError: the model applies guidance on the logits (0) and nowhere else; got 0,-5
        """
        if self.guidance_at != (ON_LOGITS,):
            places = ",".join(map(str, self.guidance_at))
            raise InputError(f"{who} applies guidance on the logits (0) and nowhere else; got {places}")


def read_strengths(text: str) -> float | tuple[float, ...]:
    """A strength of guidance, or one per scale.

    >>> read_strengths("3"), read_strengths("1, 1.5")
    (3.0, (1.0, 1.5))
    """
    try:
        strengths = tuple(float(number) for number in text.split(","))
    except ValueError:
        raise InputError(
            f"--guidance needs a number, or one per scale with commas between; got {shortened(text)}"
        ) from None
    return strengths[0] if len(strengths) == 1 else strengths


def read_places(text: str) -> tuple[int, ...]:
    """The places where guidance is applied.

    >>> read_places("0, -5")
    (0, -5)
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise InputError(
            f"--guidance-at needs whole numbers with commas between, 0 for the logits; got {shortened(text)}"
        ) from None
