"""Errors: one family for the command line, standard families for everyone else, and messages that help."""

from __future__ import annotations

import pytest

from scalekv_core import errors
from scalekv_core.errors import ScaleKVError, missing_extra, unknown_name

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", ALL)
def test_every_error_is_one_of_ours(error: type[Exception]) -> None:
    """So that a program can catch them all, and each says what it is for."""
    assert issubclass(error, ScaleKVError)
    assert error.__doc__


def test_errors_belong_to_pythons_families_too() -> None:
    """What is a ValueError, LookupError or ImportError elsewhere is one here."""
    families = {errors.InputError: ValueError, errors.BudgetError: ValueError, errors.UnknownName: LookupError}

    assert all(issubclass(mine, theirs) for mine, theirs in families.items())
    assert issubclass(errors.MissingExtra, ImportError)
    assert issubclass(errors.BudgetError, errors.InputError)


def test_an_unknown_name_is_answered() -> None:
    """With the nearest match if there is one, and with what there is."""
    assert "no codec is called 'int9'; did you mean 'int8'? Known: dense, int8!" == str(
        unknown_name("codec", "int9", ["int8", "dense"], hint="!")
    )
    assert "no codec is called 'x'. Known: none" == str(unknown_name("codec", "x", []))


def test_a_missing_extra_names_the_command() -> None:
    """Which installs it."""
    assert "pip install 'scalekv[plot]'" in str(missing_extra("matplotlib", "plot", "scalekv explain"))
