"""Figures as text and as JSON; infinity and NaN are written by name, never as 0."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from scalekv_core.compare.ranking import Interval

Plain = float | str | None
DIGITS = 5
"""Of a number in the data of the page."""


def figure_text(figure: Interval) -> str:
    """A figure as text; NaN and infinity by name."""
    if math.isnan(figure.value):
        return "no number"
    return "identical" if math.isinf(figure.value) else short(figure.value)


def interval_text(figure: Interval) -> str:
    """The ends of a figure's interval, and how many images are missing."""
    missing = f"{figure.missing} missing" if figure.missing else ""
    if math.isnan(figure.low) or figure.low == figure.high:
        return missing
    return ", ".join(filter(None, [f"{short(figure.low)} to {short(figure.high)}", missing]))


def short(value: float) -> str:
    """A number with a few digits.

    >>> short(12.3456), short(0.00012), short(float("inf"))
    ('12.35', '0.00012', '∞')
    """
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return "0" if value == 0 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.4g}"


def plain(value: float | None) -> Plain:
    """A number as JSON can hold it: infinity as text, NaN as null.

    >>> plain(0.1234567), plain(float("-inf")), plain(float("nan"))
    (0.12346, '-inf', None)
    """
    if value is None or math.isnan(value):
        return None
    return str(float(value)) if math.isinf(value) else float(f"{value:.{DIGITS}g}")


def median(values: NDArray[np.float64]) -> float | None:
    """The median of the figures that are not NaN; None if all are."""
    return None if np.isnan(values).all() else float(np.nanmedian(values))
