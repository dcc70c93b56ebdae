"""Budgets in the units people use, each with its denominator: "10%", "10% of all", "650 tokens", "4GiB"."""

from __future__ import annotations

import re
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from typing import Any, Literal, get_args

from attrs import field, frozen

from scalekv_core.errors import BudgetError, InputError, shortened
from scalekv_core.shapes.geometry import CacheGeometry, plural

Unit = Literal["history", "all", "tokens", "bytes"]

MOST_DIGITS = 30

_FORM = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>%\s*(?:of\s+(?:the\s+)?(?:all|history))?|tokens?|[KMGT]?i?B)", re.I
)
_FORMS = "write it as '10%' (of the history that enters the last scale), '10% of all', '650 tokens' or '4GiB'"
_BYTES = {"B": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}


def _exact(amount: Any) -> Fraction:
    """A number as a fraction; BudgetError for text, for NaN and infinity, and for True and False."""
    try:
        if not isinstance(amount, (bool, str)):
            return Fraction(amount)
    except (ValueError, TypeError, OverflowError):
        pass
    raise BudgetError(f"a budget is an amount and a unit, or a text that Budget.parse reads; got {shortened(amount)}")


@frozen
class Budget:
    """How much of the cache may be held: a mean capacity over layers and heads.

    Attributes:
        amount: exact number, in ``unit``; a share is a fraction of 1.
        unit: ``history`` (share of the tokens that enter the last scale, the papers' convention),
            ``all`` (share of all tokens), ``tokens`` (per head, on average) or ``bytes`` (of the whole batch).

    Raises:
        BudgetError: another unit, nothing at all, or no number.

    >>> str(Budget.parse("10%")), str(Budget.parse("650 tokens")), Budget.parse("4GiB").amount
    ('10% of history', '650 tokens', Fraction(4294967296, 1))
    """

    amount: Fraction = field(converter=_exact)
    unit: Unit = "history"

    def __attrs_post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise BudgetError(f"the unit of a budget is one of {', '.join(get_args(Unit))}; got {self.unit!r}")
        if self.amount <= 0:
            raise BudgetError(f"budget {self} holds nothing; give more than 0")

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """Reads a budget from text.

        Raises:
            BudgetError: not one of the four forms, or nothing at all.
        """
        if isinstance(text, Budget):
            return text
        match = _FORM.fullmatch(str(text).strip())
        if match is None:
            raise BudgetError(f"budget {shortened(text)} is not understood; {_FORMS}")
        number, unit = _number(match["number"], "budget", BudgetError), match["unit"]
        if unit.startswith("%"):
            return cls(number / 100, "all" if unit.lower().endswith("all") else "history")
        if unit.lower().startswith("token"):
            return cls(number, "tokens")
        return cls(number * _byte_unit(unit), "bytes")

    def slots(
        self, geometry: CacheGeometry, *, slot_bytes: Fraction | None = None, whole_bytes: int | None = None
    ) -> int:
        """Slots (tokens x layers x heads) that this budget buys in one row.

        Args:
            geometry: the cache that it is spent on.
            slot_bytes: bytes of one slot, where a codec stores it smaller; defaults to dense.
            whole_bytes: bytes of the whole history in the whole batch; by default all of its slots.

        Raises:
            BudgetError: the budget is more than the whole history that enters the last scale.
        """
        history, total = geometry.schedule.last_history, geometry.schedule.total
        most, per_slot = history * geometry.slots_per_token, slot_bytes or Fraction(geometry.slot_bytes)
        whole = int(most * geometry.rows * per_slot) if whole_bytes is None else whole_bytes
        share = {
            "history": self.amount,
            "all": self.amount * total / max(1, history),
            "tokens": self.amount / max(1, history),
            "bytes": self.amount / max(1, whole),
        }[self.unit]
        if share > 1:
            raise BudgetError(
                f"budget {self} is more than the whole history: later scales attend to at most {history} of the {total} "
                f"tokens (= '100%' = '{plural(history, 'token')}' = '{Budget(Fraction(max(1, whole)), 'bytes')}' here); use policy 'full' to keep them all"
            )
        if self.unit == "bytes" and share < 1:
            return min(most, int(self.amount / (geometry.rows * per_slot)))
        return int(share * most)

    def __str__(self) -> str:
        if self.unit in ("history", "all"):
            return f"{_plain(self.amount * 100)}% of {self.unit}"
        if self.unit == "tokens":
            return f"{_plain(self.amount)} token{'' if self.amount == 1 else 's'}"
        return _plain_bytes(self.amount)


def read_bytes(text: str) -> int:
    """Reads a number of bytes from text such as '24GiB'.

    Raises:
        InputError: it stands for none.

    >>> read_bytes("24GiB"), read_bytes("1.5 GB")
    (25769803776, 1500000000)
    """
    match = _FORM.fullmatch(text.strip())
    if match is None or not match["unit"].lower().endswith("b"):
        raise InputError(f"memory is written as 24GiB, 80GB or 512MiB; got {shortened(text)}")
    return int(_number(match["number"], "memory", InputError) * _byte_unit(match["unit"]))


def _number(digits: str, what: str, error: type[InputError]) -> Fraction:
    if len(digits) > MOST_DIGITS:
        raise error(f"{what} {shortened(digits)} has {len(digits)} digits; write at most {MOST_DIGITS}")
    return Fraction(digits)


def _byte_unit(unit: str) -> int:
    for name, size in _BYTES.items():
        if name.lower() == unit.lower():
            return size
    raise BudgetError(f"byte unit {unit!r} is not known; {_FORMS}")


def _plain_bytes(amount: Fraction) -> str:
    """Bytes as exact text, in the unit with the fewest characters; of two equally short ones the larger unit."""
    units = sorted(_BYTES.items(), key=lambda item: -item[1])
    forms = [f"{_plain(amount / size)} {unit}" for unit, size in units if amount >= size or unit == "B"]
    return min(forms, key=len)


def _plain(number: Fraction) -> str:
    """All digits where there is an end to them; otherwise six, or as many as tell it from a whole number. Never an exponent,
    so that it can be read as a budget again."""
    for digits in (MOST_DIGITS + 10, 6, 12, 18, MOST_DIGITS):
        context = Context(prec=digits)
        text = format(context.divide(Decimal(number.numerator), Decimal(number.denominator)), "f")
        if not context.flags[Inexact] or (digits <= MOST_DIGITS and Fraction(text) != round(number)):
            break
    return text
