"""Budgets in the units people use, each with a stated denominator: "10%", "10% of all", "650 tokens", "4GiB"."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from attrs import field, frozen

from scalekv_core.errors import BudgetError, InputError
from scalekv_core.shapes.geometry import CacheGeometry, format_bytes

Unit = Literal["history", "all", "tokens", "bytes"]

_FORM = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>%\s*(?:of\s+(?:the\s+)?(?:all|history))?|tokens?|[KMGT]?i?B)", re.I
)
_FORMS = "write it as '10%' (of the history that enters the last scale), '10% of all', '650 tokens' or '4GiB'"
_BYTES = {"B": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}


@frozen
class Budget:
    """How much of the cache may be held: the mean capacity over layers and heads.

    Attributes:
        amount: exact number, in ``unit``; a share is a fraction of 1.
        unit: ``history`` (share of the tokens that enter the last scale, the papers' convention),
            ``all`` (share of all tokens), ``tokens`` (per layer and head) or ``bytes`` (of the whole batch).

    Raises:
        BudgetError: another unit, or nothing at all.

    >>> str(Budget.parse("10%")), str(Budget.parse("650 tokens")), Budget.parse("4GiB").amount
    ('10% of history', '650 tokens', Fraction(4294967296, 1))
    """

    amount: Fraction = field(converter=Fraction)
    unit: Unit = "history"

    def __attrs_post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise BudgetError(f"the unit of a budget is one of {', '.join(get_args(Unit))}; got {self.unit!r}")
        if self.amount <= 0:
            raise BudgetError(f"budget {self} holds nothing; give more than 0")

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """The budget that a text stands for.

        Raises:
            BudgetError: not one of the four forms, or nothing at all.
        """
        if isinstance(text, Budget):
            return text
        match = _FORM.fullmatch(str(text).strip())
        if match is None:
            raise BudgetError(f"budget {text!r} is not understood; {_FORMS}")
        number, unit = Fraction(match["number"]), match["unit"]
        if unit.startswith("%"):
            return cls(number / 100, "all" if unit.lower().endswith("all") else "history")
        if unit.lower().startswith("token"):
            return cls(number, "tokens")
        return cls(number * _byte_unit(unit), "bytes")

    def slots(self, geometry: CacheGeometry, *, slot_bytes: Fraction | None = None) -> int:
        """Places for tokens that this budget buys in one row, over all layers and heads.

        Args:
            geometry: the cache that it is spent on.
            slot_bytes: bytes of one token in one head, where a codec stores it smaller; defaults to dense.

        Raises:
            BudgetError: the budget is larger than the history that enters the last scale.
        """
        history, places = geometry.schedule.last_history, geometry.slots_per_token
        per_place = slot_bytes or Fraction(geometry.slot_bytes)
        bought = {
            "history": self.amount * history * places,
            "all": self.amount * geometry.schedule.total * places,
            "tokens": self.amount * places,
            "bytes": self.amount / (geometry.rows * per_place),
        }[self.unit]
        if bought > history * places:
            whole = format_bytes(int(history * places * geometry.rows * per_place))
            raise BudgetError(
                f"budget {self} is more than the whole history: at most {history} of the {geometry.schedule.total} tokens "
                f"are read by a later scale (= '100%' = '{history} tokens' = {whole} here); use policy 'full' to keep them all"
            )
        return int(bought)

    def __str__(self) -> str:
        if self.unit in ("history", "all"):
            return f"{_plain(self.amount * 100)}% of {self.unit}"
        if self.unit == "tokens":
            return f"{_plain(self.amount)} token{'' if self.amount == 1 else 's'}"
        return format_bytes(int(self.amount))


def read_bytes(text: str) -> int:
    """The bytes that a text such as '24GiB' stands for.

    Raises:
        InputError: it stands for none.

    >>> read_bytes("24GiB"), read_bytes("1.5 GB")
    (25769803776, 1500000000)
    """
    match = _FORM.fullmatch(text.strip())
    if match is None or not match["unit"].lower().endswith("b"):
        raise InputError(f"memory is written as 24GiB, 80GB or 512MiB; got {text!r}")
    return int(Fraction(match["number"]) * _byte_unit(match["unit"]))


def _byte_unit(unit: str) -> int:
    for name, size in _BYTES.items():
        if name.lower() == unit.lower():
            return size
    raise BudgetError(f"byte unit {unit!r} is not known; {_FORMS}")


def _plain(number: Fraction) -> str:
    """Whole, or six digits; never with an exponent, since it has to be readable as a budget again."""
    if number.denominator == 1:
        return str(int(number))
    return np.format_float_positional(float(number), precision=6, fractional=False, trim="-")
