"""Sampling options: values out of range and values that are no numbers are refused in one line."""

from __future__ import annotations

from math import inf, nan

import pytest

from scalekv_core import InputError, Sampling


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("guidance", (-1.0, nan, inf, "4", None, True, (), (1.0, -1.0), (1.0, "2"))),
        ("top_k", (-1, 1.0, "900", True)),
        ("top_p", (-0.1, 1.1, nan, "0.5", None)),
        ("temperature", (0, -1, nan, inf, "1")),
    ],
)
def test_values_out_of_range_are_refused(name: str, values: tuple[object, ...]) -> None:
    """The error names the field and the value."""
    for value in values:
        with pytest.raises(InputError, match=rf"sampling needs {name} .*; got ") as error:
            Sampling(**{name: value})
        assert str(error.value).endswith(f"got {value!r}")


def test_one_strength_or_one_per_scale() -> None:
    """Lists and tuples are both stored as tuples."""
    assert (3.0,) == Sampling(guidance=3.0).strengths
    assert Sampling(guidance=(1.0, 2.0)) == Sampling(guidance=[1.0, 2.0])
    assert (1.0, 2.0) == Sampling(guidance=[1.0, 2.0]).strengths
