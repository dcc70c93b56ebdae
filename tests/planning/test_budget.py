"""Budget: four units with stated denominators; other values are refused, and nothing is clamped."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from scalekv_core import Budget, BudgetError, CacheGeometry, InputError, ScaleSchedule
from scalekv_core.planning.budget import read_bytes

SCHEDULE = ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
INFINITY_2B = CacheGeometry(
    schedule=SCHEDULE,
    layers=32,
    heads=16,
    head_dim=128,
    rows=16,
    dtype=torch.bfloat16,
    unmodified_key_dtype=torch.float32,
)
SLOTS = 32 * 16


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("10%", Fraction(1, 10), "history"),
        ("10 %", Fraction(1, 10), "history"),
        ("  10%\n", Fraction(1, 10), "history"),
        ("10% of history", Fraction(1, 10), "history"),
        ("10% of the history", Fraction(1, 10), "history"),
        ("0.1%", Fraction(1, 1000), "history"),
        ("33.333%", Fraction(33333, 100000), "history"),
        ("10% of all", Fraction(1, 10), "all"),
        ("10 % OF ALL", Fraction(1, 10), "all"),
        ("10%  of  the  all", Fraction(1, 10), "all"),
        ("650 tokens", Fraction(650), "tokens"),
        ("650tokens", Fraction(650), "tokens"),
        ("1 token", Fraction(1), "tokens"),
        ("1.5 Tokens", Fraction(3, 2), "tokens"),
        ("4GiB", Fraction(4 * 2**30), "bytes"),
        ("4 gib", Fraction(4 * 2**30), "bytes"),
        ("4GB", Fraction(4 * 10**9), "bytes"),
        ("1.5 MiB", Fraction(3 * 2**19), "bytes"),
        ("3kB", Fraction(3000), "bytes"),
        ("3KiB", Fraction(3072), "bytes"),
        ("1TB", Fraction(10**12), "bytes"),
        ("2TiB", Fraction(2**41), "bytes"),
        ("512 B", Fraction(512), "bytes"),
    ],
)
def test_the_forms_people_write(text: str, amount: Fraction, unit: str) -> None:
    """A number and a unit, with or without spaces, in any case, are read exactly."""
    assert Budget(amount, unit) == Budget.parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "%", "ten percent", "10", "0.1", "-5%", "+5%", "1e3", "1e3 tokens", "1,5%", "5%%", ".5%", "5.%"),
        *(
            "10% of everything",
            "10% of",
            "10 tokens of history",
            "of all",
            "4Gi",
            "4G",
            "4GiBs",
            "4 Gi B",
            "1 000 tokens",
        ),
        *("nan%", "inf tokens", "0x10 tokens", "10% 20%", "650 token s", "4 PiB", "10% of all tokens", "٪"),
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    """Other texts are refused, also a number without a unit, which could be a share or a count."""
    with pytest.raises(BudgetError, match="is not understood; write it as '10%'") as refusal:
        Budget.parse(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize("thing", [None, 0.1, 10, ["10%"], True])
def test_what_is_no_text_is_refused(thing: object) -> None:
    """Only a text or a Budget is a budget."""
    with pytest.raises(BudgetError, match="is not understood"):
        Budget.parse(thing)  # type: ignore[arg-type]


def test_a_budget_is_its_own_budget() -> None:
    """parse passes a Budget through."""
    budget = Budget(Fraction(1, 3))

    assert budget is Budget.parse(budget)


def test_a_unit_is_one_of_four() -> None:
    """The constructor of Budget checks the unit too."""
    with pytest.raises(BudgetError, match="history, all, tokens, bytes; got 'GiB'"):
        Budget(Fraction(4), "GiB")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("100%", 6_425 * SLOTS),
        ("6425 tokens", 6_425 * SLOTS),
        ("10%", 328_960),  # 642.5 tokens
        ("10% of all", 538_675),  # 1,052.1 tokens, rounded down
        ("650 tokens", 650 * SLOTS),
        ("1 token", SLOTS),
        ("0.5 tokens", SLOTS // 2),
        ("2600 MiB", 650 * SLOTS),  # bf16, 16 rows: the paper's 10 %
        ("25700 MiB", 6_425 * SLOTS),
        ("1 B", 0),
    ],
)
def test_what_a_budget_buys(text: str, slots: int) -> None:
    """A budget buys slots of one row over all layers and heads; 10 % is of the 6,425 tokens that enter the last scale."""
    assert slots == Budget.parse(text).slots(INFINITY_2B)


def test_bytes_buy_fewer_tokens_for_more_rows() -> None:
    """Shares and tokens do not depend on the batch; bytes are of the whole batch and of stored slots."""
    alone = INFINITY_2B.for_rows(1)

    assert Budget.parse("10%").slots(alone) == Budget.parse("10%").slots(INFINITY_2B)
    assert Budget.parse("1GiB").slots(alone) == 16 * Budget.parse("1GiB").slots(INFINITY_2B)
    assert 2**30 // 520 == Budget.parse("1GiB").slots(alone, slot_bytes=Fraction(520))
    assert Budget.parse("1GiB").slots(alone) // 2 == Budget.parse("1GiB").slots(evolve(alone, dtype=torch.float32))


@pytest.mark.parametrize("text", ["0%", "0 tokens", "0GiB", "0.0% of all"])
def test_nothing_is_no_budget(text: str) -> None:
    """Zero is refused in every unit."""
    with pytest.raises(BudgetError, match="holds nothing; give more than 0"):
        Budget.parse(text)


def test_a_negative_share_is_no_budget() -> None:
    """The constructor refuses a negative share."""
    with pytest.raises(BudgetError, match="holds nothing"):
        Budget(Fraction(-1, 10))


@pytest.mark.parametrize("text", ["100.001%", "101%", "6425.1 tokens", "62% of all", "100% of all", "25701 MiB"])
def test_more_than_a_later_scale_reads_is_refused(text: str) -> None:
    """The error gives the whole history in three units and what to do."""
    with pytest.raises(BudgetError) as refusal:
        Budget.parse(text).slots(INFINITY_2B)

    assert str(refusal.value).endswith(
        "is more than the whole history: later scales attend to at most 6425 of the 10521 tokens "
        "(= '100%' = '6425 tokens' = '25700 MiB' here); use policy 'full' to keep them all"
    )


def test_the_whole_is_named_in_the_bytes_that_are_stored() -> None:
    """With a codec that halves a slot, half of the dense bytes is the whole history."""
    with pytest.raises(BudgetError, match=r"'6425 tokens' = '12850 MiB' here"):
        Budget.parse("13GiB").slots(INFINITY_2B, slot_bytes=Fraction(256))


@given(st.fractions(min_value=Fraction(1, 10**6), max_value=1), st.integers(1, 5), st.integers(1, 5))
def test_a_share_is_never_rounded_up(share: Fraction, layers: int, heads: int) -> None:
    """Slots are the exact share rounded down."""
    geometry = evolve(INFINITY_2B, layers=layers, heads=heads)
    exact = share * 6_425 * layers * heads

    assert int(exact) == Budget(share).slots(geometry)


@pytest.mark.parametrize(
    "text", ["10% of history", "12.5% of all", "650 tokens", "0.00001% of history", "4 GiB", "1 B"]
)
def test_what_is_shown_can_be_typed(text: str) -> None:
    """parse reads what str shows."""
    assert text == str(Budget.parse(text))
    assert Budget.parse(text) == Budget.parse(str(Budget.parse(text)))


@given(
    st.decimals(min_value="1e-9", max_value="1e9", places=9),
    st.sampled_from(["%", "% of all", " tokens", " MiB", " kB"]),
)
def test_what_was_typed_is_shown_exactly(number: Decimal, unit: str) -> None:
    """No digit is rounded: 100.0001 % is not shown as 100 %."""
    budget = Budget.parse(f"{number:f}{unit}")

    assert budget == Budget.parse(str(budget))


def test_a_share_without_end_is_never_shown_as_a_whole_number() -> None:
    """A share slightly above 100 % is shown as more than 100 %."""
    assert "100.000000033% of history" == str(Budget(1 + Fraction(1, 3 * 10**9)))


@pytest.mark.parametrize("unit", ["%", " tokens", "GiB"])
def test_a_number_of_400_digits_is_refused(unit: str) -> None:
    """The error is one short line, in every unit."""
    with pytest.raises(BudgetError, match="has 400 digits; write at most 30") as refusal:
        Budget.parse("9" * 400 + unit)
    assert len(str(refusal.value)) < 150


def test_six_digits_are_shown() -> None:
    """A periodic share is shortened; a count of tokens is not."""
    assert "33.3333% of history" == str(Budget(Fraction(1, 3)))
    assert "1234567 tokens" == str(Budget(Fraction(1_234_567), "tokens"))


def test_memory_of_too_many_digits_is_called_memory() -> None:
    """The message names what was asked for."""
    with pytest.raises(InputError, match=r"^memory '9+'\.\.\. .* has 400 digits"):
        read_bytes("9" * 400 + "GiB")
