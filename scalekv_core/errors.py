"""Every mistake a user can make ends in one of these: one line that says who, where, wanted, got, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_QUOTED = re.compile(r"""(?<!\w)(['"])((?:\\.|(?!\1)[^\\])*)\1""", re.DOTALL)
"""A text in quotes, as Python shows it; an apostrophe inside a word opens none."""
_NUMBER = re.compile(r"\d{41,}")
"""Too many digits to be read: what a user gave by mistake, or what was computed from it."""
_UNBROKEN = re.compile(r"\S{401,}")
"""Longer than a path that somebody would read."""


class ScaleKVError(Exception):
    """Root of all errors that scalekv raises on purpose; the command line prints them without a traceback.

    What a user gave by mistake is not repeated at any length: see :func:`readable`.

    >>> print(ScaleKVError("budget " + "9" * 400 + "%"))
    budget 99999999 ... 99999999 (400 digits)%
    """

    def __init__(self, *given: object) -> None:
        super().__init__(*(readable(one) if isinstance(one, str) else one for one in given))


def readable(message: str) -> str:
    """A message in which long texts are abbreviated: in quotes above 120 letters, numbers above 40 digits, words above 400
    letters.

    >>> print(readable("no model is called '" + "m" * 5000 + "'; did you mean 'my-model'?"))
    no model is called 'mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm'... (5000 characters); did you mean 'my-model'?
    """
    message = _QUOTED.sub(_short_quoted, message)
    message = _NUMBER.sub(_short_number, message)
    return _UNBROKEN.sub(lambda found: f"{found[0][:40]}... ({len(found[0])} characters)", message)


def _short_quoted(text: re.Match[str]) -> str:
    quote, inside = text[1], text[2]
    return text[0] if len(inside) <= 120 else f"{quote}{inside[:40]}{quote}... ({len(inside)} characters)"


def _short_number(number: re.Match[str]) -> str:
    digits = number[0]
    return f"{digits[:8]} ... {digits[-8:]} ({len(digits)} digits)"


class InputError(ScaleKVError, ValueError):
    """A value that the user gave is out of range or of the wrong form."""


class UnknownName(ScaleKVError, LookupError):
    """A name that nothing installed answers to."""


class BudgetError(InputError):
    """A budget that cannot be met: zero, larger than the history, or below what the policy needs."""


class ProfileError(ScaleKVError):
    """A policy needs an attention profile and has none, or has that of another model."""


class PluginError(ScaleKVError):
    """A plugin cannot be loaded or offers something that it may not offer."""


class ContractError(ScaleKVError):
    """A strategy broke its contract: a selector that returned too many tokens, an allocator that overspent."""


class SessionError(ScaleKVError):
    """Compression was switched on where it cannot be, twice, or to no effect."""


class CheckpointError(ScaleKVError):
    """A weights file is truncated, of another model, or holds something that is not data."""


class NonFiniteError(ScaleKVError, ArithmeticError):
    """A model computed NaN or infinity, so its image would mean nothing."""


class MissingExtra(ScaleKVError, ImportError):
    """An optional dependency is needed for this and is not installed."""


def unknown_name(kind: str, name: str, known: Iterable[str], *, hint: str = "") -> UnknownName:
    """The error for an unknown name: the installed ones, the nearest match, and an optional hint.

    >>> print(unknown_name("policy", "scalkv", ["full", "scalekv"]))
    no policy is called 'scalkv'; did you mean 'scalekv'? Known: full, scalekv
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    listed = ", ".join(names) if names else "none"
    return UnknownName(f"no {kind} is called {name!r}{guess} Known: {listed}{hint}")


def shortened(given: object) -> str:
    """What a user gave, as a message shows it: its repr, or the beginning where it is long.

    >>> shortened("lots"), shortened("9" * 400)
    ("'lots'", "'9999999999999999999999999999999999999999'... (400 characters)")
    """
    shown = repr(given)
    if len(shown) <= 80:
        return shown
    return f"{given[:40]!r}... ({len(given)} characters)" if isinstance(given, str) else f"{shown[:60]}..."


def first_line(error: object, otherwise: str = "no reason given") -> str:
    """The first line of what an error says, or another word where it says nothing.

    >>> first_line(ValueError()), first_line(ValueError("too short"), "none")
    ('no reason given', 'too short')
    """
    return (str(error).strip().splitlines() or [otherwise])[0]


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtra:
    """The error for an optional dependency that is not installed.

    >>> print(missing_extra("matplotlib", "plot", "scalekv explain"))
    scalekv explain needs matplotlib, which is not installed; run: pip install 'scalekv[plot]'
    """
    return MissingExtra(f"{purpose} needs {package}, which is not installed; run: pip install 'scalekv[{extra}]'")
