"""Figures as text, none of which is rounded into another statement: only 1 is 100 %, only 0 is 0, and nan is nan."""

from __future__ import annotations

import math

MORE = 2
"""Further digits that a figure may take before its rounding is told with < or >."""


def percent(value: float | None, digits: int = 1) -> str:
    """A share; nothing where there is none.

    >>> percent(0.25), percent(1.0), percent(0.9996), percent(1 - 1e-9), percent(0.0), percent(1e-9)
    ('25.0%', '100.0%', '99.96%', '<100%', '0.0%', '>0%')
    >>> percent(float("nan")), percent(None)
    ('nan', '')
    """
    if value is None or math.isnan(value):
        return "" if value is None else "nan"
    return faithful(100 * value, digits, (0.0, 100.0), "%")


def number(value: float | None, digits: int = 3) -> str:
    """A figure with some digits; nothing where there is none.

    >>> number(0.12345), number(1.0), number(0.99996), number(0.0), number(0.00042), number(1e-7)
    ('0.123', '1.000', '0.99996', '0.000', '0.0004', '1e-07')
    >>> number(float("nan")), number(float("inf")), number(None)
    ('nan', 'inf', '')
    """
    if value is None or not math.isfinite(value):
        return "" if value is None else f"{value}"
    if 0 < abs(value) < 0.5 * 10 ** -(digits + MORE):
        return f"{value:.0e}"
    return faithful(value, digits, (0.0, 1.0), "")


def decibel(value: float) -> str:
    """A PSNR; that of identical images is infinite.

    >>> decibel(21.34), decibel(float("inf")), decibel(float("nan"))
    ('21.3 dB', 'identical', 'nan')
    """
    if value == math.inf:
        return "identical"
    return f"{value:.1f} dB" if math.isfinite(value) else f"{value}"


def faithful(value: float, digits: int, exact: tuple[float, ...], unit: str) -> str:
    """With the fewest digits that do not make it one of the exact values, which are statements of their own."""
    for more in range(MORE + 1):
        text = f"{value:.{digits + more}f}"
        if float(text) not in exact or value in exact:
            return f"{text}{unit}"
    return f"{'<' if value < float(text) else '>'}{float(text):g}{unit}"
