"""The smallest budget that works, for messages. Each step is tried, so that what a message says is true."""

from __future__ import annotations

import math
from fractions import Fraction

from scalekv_core.errors import BudgetError
from scalekv_core.planning.budget import Budget, Unit
from scalekv_core.planning.spending import Spending

HUNDREDTH_OF_A_PERCENT = Fraction(1, 10_000)


def least_budget(spending: Spending, asked: Budget) -> Budget | None:
    """The smallest budget that works, in readable steps; None if even the whole history is not enough.

    Found by bisection between the budget that was asked, which does not work, and the whole history. It is in tokens where no
    step of the unit that was asked is enough: where all of the history is needed, and that is no round share.
    """
    return _bisect(spending, asked.unit, asked.amount) or _bisect(spending, "tokens", Fraction(0))


def quoted(least: Budget, spending: Spending) -> str:
    """A budget as the message names it; tokens with their share, rounded up so that the share works too."""
    if least.unit != "tokens":
        return f"'{least}'"
    share = Budget(-(-least.amount / spending.whole("tokens") // HUNDREDTH_OF_A_PERCENT) * HUNDREDTH_OF_A_PERCENT)
    return f"'{least}' ({share})"


def _bisect(spending: Spending, unit: Unit, too_little: Fraction) -> Budget | None:
    whole = spending.whole(unit)
    step = step_of(unit, whole)
    low, high = math.floor(too_little / step), math.floor(whole / step)
    if high <= low or not _works(spending, Budget(high * step, unit)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _works(spending, Budget(middle * step, unit)) else (middle, high)
    return Budget(high * step, unit)


def step_of(unit: Unit, whole: Fraction) -> Fraction:
    """The step of a unit: one token, a hundredth of a percent, or a tenth of a KiB, MiB or GiB."""
    if unit == "tokens":
        return Fraction(1)
    if unit != "bytes":
        return HUNDREDTH_OF_A_PERCENT
    return next((Fraction(size, 10) for size in (2**30, 2**20, 2**10) if whole >= 64 * size), Fraction(1))


def _works(spending: Spending, budget: Budget) -> bool:
    try:
        spending.spend(budget)
    except BudgetError:
        return False
    return True
