"""Options: read from text by their type, refused by name with the nearest match, and checked by their validators."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from attrs import field, frozen
from attrs.validators import ge, in_, instance_of, le

from scalekv_core import InputError
from scalekv_core.contracts.options import assign_options, options_of, set_options


@frozen(kw_only=True)
class Knobs:
    """One option of every type that a strategy may have."""

    window: int = field(default=16, validator=[instance_of(int), ge(1)])
    share: float = field(default=0.5, validator=[ge(0), le(1)])
    exact: bool = False
    pick: Literal["spaced", "recent"] = field(default="spaced", validator=in_(("spaced", "recent")))
    bits: Literal[4, 8] = 8
    first: int | None = None
    limit: float | None = 0.25
    sides: tuple[int, ...] = (1, 2)
    label: str = "x"


@frozen
class Other:
    """A second part, which shares one option."""

    window: int = 3
    kernel: int = 5


def knobs(**values: Any) -> Knobs:
    return set_options("selector 'knobs'", Knobs(), values)


@pytest.mark.parametrize(
    ("option", "given", "value"),
    [
        ("window", "32", 32),
        ("window", 32, 32),
        ("window", 32.0, 32),
        ("share", "0.25", 0.25),
        ("share", "1e-3", 0.001),
        ("share", 1, 1.0),
        ("exact", "true", True),
        ("exact", "Yes", True),
        ("exact", "1", True),
        ("exact", "FALSE", False),
        ("exact", "no", False),
        ("exact", True, True),
        ("pick", "recent", "recent"),
        ("bits", "4", 4),
        ("bits", 4, 4),
        ("first", "none", None),
        ("first", "None", None),
        ("first", None, None),
        ("first", "7", 7),
        ("limit", "none", None),
        ("limit", "0.75", 0.75),
        ("sides", "1,2,4", (1, 2, 4)),
        ("sides", "12", (12,)),
        ("sides", "1, 2", (1, 2)),
        ("sides", [3, 4], (3, 4)),
        ("label", "none", "none"),
        ("label", "12", "12"),
        ("label", "", ""),
    ],
)
def test_text_is_read_as_the_options_type(option: str, given: object, value: object) -> None:
    """Text from the command line, TOML and Python gives the same value of the same type."""
    read = getattr(knobs(**{option: given}), option)

    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("option", "given", "wanted"),
    [
        ("window", "many", "int"),
        ("window", "3.7", "int"),
        ("window", 3.7, "int"),
        ("window", "", "int"),
        ("window", "none", "int"),
        ("window", None, "int"),
        ("window", True, "int"),
        ("share", "half", "float"),
        ("share", True, "float"),
        ("exact", "maybe", "true or false"),
        ("exact", "2", "true or false"),
        ("pick", "Spaced", "one of spaced, recent"),
        ("bits", "5", "one of 4, 8"),
        ("first", "x", "int or none"),
        ("limit", "x", "float or none"),
        ("sides", "1;2", r"int,int,\.\.\."),
        ("sides", 3, r"int,int,\.\.\."),
        ("label", 12, "str"),
    ],
)
def test_what_cannot_be_read_is_refused(option: str, given: object, wanted: str) -> None:
    """The error names the option's owner, what was given and what is wanted."""
    with pytest.raises(InputError, match=rf"^selector 'knobs' cannot take {option}=.*: wanted {wanted}$") as refusal:
        knobs(**{option: given})
    assert f"{option}={given!r}" in str(refusal.value)


@pytest.mark.parametrize(
    ("option", "given", "reason"),
    [
        ("window", "0", "'window' must be >= 1: 0"),
        ("share", "1.5", "'share' must be <= 1: 1.5"),
        ("share", "nan", "'share'"),
    ],
)
def test_a_validator_speaks(option: str, given: str, reason: str) -> None:
    """The error of an option's validator is shown in one line."""
    with pytest.raises(InputError, match=rf"^selector 'knobs' refuses {option}={given}: {reason}") as refusal:
        knobs(**{option: given})
    assert 1 == len(str(refusal.value).splitlines())


def test_an_unknown_option_is_answered_with_the_known() -> None:
    """The error proposes the nearest name and lists every option with its value."""
    with pytest.raises(
        InputError, match=r"has no option 'windw'; did you mean 'window'\? It has: window=16, share=0\.5"
    ):
        knobs(windw="3")
    with pytest.raises(InputError, match=r"has no option 'zzz'\. It has: window=16"):
        knobs(zzz="3")
    with pytest.raises(InputError, match=r"has no option 'x'\. It has: none"):
        set_options("codec 'plain'", object(), {"x": "1"})


def test_options_leave_the_original_alone() -> None:
    """Setting options makes a new value; setting none returns the same one."""
    before = Knobs()
    after = set_options("it", before, {"window": "2", "exact": "yes"})

    assert (16, False) == (before.window, before.exact)
    assert (2, True) == (after.window, after.exact)
    assert before is set_options("it", before, {})


def test_options_are_shown_in_order() -> None:
    """Options appear in the order of declaration; a value that is no attrs class has none."""
    assert ["window", "share", "exact", "pick", "bits", "first", "limit", "sides", "label"] == list(options_of(Knobs()))
    assert {} == options_of(object())


def test_an_option_goes_to_the_part_that_has_it() -> None:
    """An option is given by its bare name if one part has it, or as part.option."""
    parts = {"selector": Knobs(), "merger": Other()}

    assert {"merger": Other(kernel=7)} == assign_options("p", parts, {"kernel": "7"})
    assert {"merger": Other(window=9)} == assign_options("p", parts, {"merger.window": "9"})
    assert {"selector": Knobs(share=0.1), "merger": Other(kernel=1)} == assign_options(
        "p", parts, {"share": "0.1", "kernel": 1}
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("window", "belongs to several parts of policy 'p'; say selector.window or merger.window"),
        ("kernl", r"policy 'p' has no option 'kernl'; did you mean 'kernel'\?"),
        ("merger.share", "merger of policy 'p' has no option 'share'"),
        ("nose.window", r"'nose\.window': a policy has the parts selector, merger; got 'nose'"),
    ],
)
def test_an_option_without_a_home_is_refused(option: str, message: str) -> None:
    """Ambiguous options, unknown ones, and those of a wrong or unknown part are refused."""
    with pytest.raises(InputError, match=message):
        assign_options("p", {"selector": Knobs(), "merger": Other()}, {option: "3"})
