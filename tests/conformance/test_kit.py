"""The kit itself: its use in a test suite, its output, and its repeatability."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from scalekv_core import InputError, MissingExtra, Registry, ScoringSelector, UnknownName, hookimpl
from scalekv_core.testing import (
    GenerationCase,
    Outcome,
    ViewCase,
    checks_of,
    parametrize_with_checks,
    replay,
    run_checks,
    toy,
)
from scalekv_core.testing.kinds import KINDS
from scalekv_core.testing.running import try_all
from scalekv_core.testing.strategies import CASES, budgets, geometries, profiles, roles, schedules, views
from scalekv_core.testing.subjects import registered
from tests.wrong_strategies.selectors import FirstRow

SUITE = """
from hypothesis import Phase, settings
from scalekv_core.testing import parametrize_with_checks
from scalekv_core.testing.toy import Latest
from tests.wrong_strategies.plans import HalfOfIt
from tests.wrong_strategies.selectors import FirstRow

phases = [Phase.generate, Phase.shrink]
settings.register_profile("same", max_examples=5, database=None, derandomize=True, phases=phases)
settings.load_profile("same")

@parametrize_with_checks(
    {"latest": Latest, "first-row": FirstRow, "half": HalfOfIt, "none": lambda: 1 / 0, "dict": dict},
    expected_failures={
        ("half", "spends_the_budget"): "it leaves half on purpose",
        ("latest", "rows_permute"): "it does not",
    },
)
def test_mine(check):
    check()
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of pytest for a suite with right and wrong strategies and with expected failures."""
    file = tmp_path_factory.mktemp("suite") / "test_suite.py"
    file.write_text(SUITE)
    some = "can_be_made or budget or (latest and indices_ascend) or rows_permute"
    arguments = ["-q", "-rA", "-k", some, "-p", "no:cacheprovider", "--rootdir", str(file.parent), str(file)]
    root = Path(__file__).parents[2]
    command, wide = [sys.executable, "-m", "pytest", *arguments], os.environ | {"COLUMNS": "400"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=wide)
    assert 1 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_every_check_of_every_strategy_is_a_test_of_its_own(ran: str) -> None:
    """Tests are named by strategy and check, so that ``-k`` finds them."""
    assert re.search(r"PASSED .*test_mine\[latest-indices_ascend\]", ran)
    assert "test_mine[half-stays_within_the_budget]" in ran


def test_what_is_not_claimed_is_no_test() -> None:
    """A law that a selector does not claim gives no test."""
    names = [param.id for param in parametrize_with_checks({"latest": toy.Latest}).args[1]]
    assert "latest-heads_are_apart" in names
    assert "latest-heads_are_alike" not in names


def test_a_failure_shows_the_smallest_case_and_what_was_compared(ran: str) -> None:
    """A failure shows the reason, the case as a call to copy, the check's sentence, and the compared values."""
    assert "AssertionError: with the rows of the batch in reverse order, a row gets another answer" in ran
    assert "ViewCase.parse('maps=1x2,1x1')" in ran
    assert "where False = all_same(" in ran
    if sys.version_info >= (3, 11):
        assert "rows_permute: Rows in another order get the answers in that order" in ran


def test_expected_failures_are_strict(ran: str) -> None:
    """An expected failure that fails is an xfail with its reason; one that passes is a failure."""
    assert "XFAIL" in ran
    assert "it leaves half on purpose" in ran
    assert "[XPASS(strict)] it does not" in ran


def test_what_cannot_be_made_fails_by_itself(ran: str) -> None:
    """A strategy that cannot be made fails its tests, and the suite is still collected."""
    assert "test_mine[none-can_be_made] - ZeroDivisionError" in ran
    assert "test_mine[dict-can_be_made] - scalekv_core.errors.InputError: dict is no strategy" in ran


def test_an_expected_failure_of_nothing_is_refused() -> None:
    """An expected failure of an unknown check or strategy is refused."""
    with pytest.raises(InputError, match="not among the checks that are made: latest-rows"):
        parametrize_with_checks({"latest": toy.Latest}, expected_failures={("latest", "rows"): "no"})


def test_a_name_that_is_not_registered_is_refused() -> None:
    """An unknown name is refused at collection."""
    with pytest.raises(InputError, match="no installed plugin offers a strategy called 'nobody'"):
        parametrize_with_checks(["nobody"], registry=Registry.of(toy))


class OnlyNever(toy.Even):
    """Refuses everything."""

    def allocate(self, geometry, roles, slots):
        from scalekv_core import BudgetError

        raise BudgetError("never")


def test_a_check_that_applies_to_no_case_has_not_passed() -> None:
    """A strategy that refuses every budget does not pass."""
    marks = parametrize_with_checks({"never": OnlyNever})
    check = next(param.values[0] for param in marks.args[1] if param.id == "never-stays_within_the_budget")
    with pytest.raises(pytest.fail.Exception, match="was not checked: it refuses this budget"):
        check()


class Plugin:
    """A plugin with one wrong selector."""

    @hookimpl
    def scalekv_token_selectors(self) -> dict[str, Callable[[], object]]:
        return {"first-row": FirstRow}


def same_twice(table: Callable[[], Iterable[Outcome]]) -> list[Outcome]:
    """The parts of outcomes that a second run repeats: check, state, reason, case and replay."""
    first, second = list(table()), list(table())
    assert [evolve(outcome, seconds=0.0) for outcome in first] == [evolve(outcome, seconds=0.0) for outcome in second]
    return first


def test_the_same_seed_gives_the_same_outcomes() -> None:
    """The same seed tries the same cases."""
    some = {"indices_ascend", "rows_permute", "rows_are_apart", "repeats_itself"}
    subject = registered(Registry.of(Plugin()), "selector", "first-row")
    outcomes = same_twice(lambda: try_all(subject, only=some, examples=10, seed=3))
    assert {"rows_permute", "rows_are_apart"} == {outcome.check for outcome in outcomes if outcome.state == "failed"}
    assert some == {outcome.check for outcome in outcomes}


@pytest.mark.thorough
def test_run_checks_gives_the_same_table_twice() -> None:
    """A second run of all checks gives the same table."""
    registry = Registry.of(Plugin())
    outcomes = same_twice(lambda: run_checks(registry, "selector", "first-row", examples=10, seed=3))
    assert {"rows_permute", "rows_are_apart"} == {outcome.check for outcome in outcomes if outcome.state == "failed"}


def test_a_failed_check_is_replayed() -> None:
    """The printed line replays the case in the caller's thread and raises the original error."""
    registry = Registry.of(Plugin())
    with pytest.raises(AssertionError, match="in reverse order"):
        replay("selector", "first-row", "rows_permute", "maps=1x2,1x1", registry=registry)
    replay("selector", "first-row", "indices_ascend", "maps=1x2,1x1", registry=registry)


@pytest.mark.parametrize("cls", CASES, ids=lambda cls: cls.__name__)
def test_a_case_is_read_back_from_its_line(cls: type) -> None:
    """Every case can be parsed from the line that it prints."""

    @given(CASES[cls](()))
    def check(case: object) -> None:
        assert case == cls.parse(str(case))
        assert case == eval(repr(case), {cls.__name__: cls})

    check()


def test_the_smallest_cases_are_one_map_of_one_row() -> None:
    """Failures shrink to one map of one row."""
    assert "maps=1x2,1x1" == str(ViewCase())
    assert "rows=1" == str(GenerationCase())


@frozen
class Masses(ScoringSelector):
    """A statistic of the largest attention so far."""

    statistics: ClassVar[tuple[str, ...]] = ("mass",)

    def observe(self, view):
        return {"mass": view.statistics["mass"] + view.attention_mass()}

    def score(self, view, keep):
        return view.statistics["mass"]


@given(schedules(), geometries(), budgets(), roles(), profiles(), views(Masses()))
def test_the_strategies_give_what_they_say(schedule, geometry, budget, labels, profile, view) -> None:
    """Generated cases are valid: positions ascend, attention sums to one, and token counts are small."""
    assert schedule.total <= 120
    assert geometry.rows >= 1
    assert budget[0].isdigit()
    assert labels.labels.ndim == 3
    assert profile.mass.sum(axis=-1) == pytest.approx(1.0, abs=1e-5)
    assert view.tokens > 1
    assert (view.positions.diff(dim=-1) > 0).all()
    assert ["mass"] == list(view.statistics)
    assert bool(view.statistics["mass"][:, :, view.history :].eq(0).all())
    assert bool(view.statistics["mass"][:, :, : view.history].ge(0).all())  # 0 where huge scores leave no attention


@given(st.data())
def test_schedules_are_of_any_proportion(data: st.DataObject) -> None:
    """Generated maps have any proportion and order, and never fewer than requested."""
    assert len(data.draw(schedules(least_maps=3))) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_check_says_why(kind: str) -> None:
    """Every check has a name in words and a sentence for tables and docs."""
    for check in checks_of(kind):
        assert check.why.endswith((".", "?")), check.name
        assert check.name.replace("_", "").isalpha()


def test_an_unknown_kind() -> None:
    """An unknown kind is refused with the nearest match."""
    with pytest.raises(UnknownName, match="did you mean 'selector'"):
        checks_of("selectors")


WITHOUT = """
import sys
sys.modules["hypothesis"] = None
import scalekv_core.testing.toy
from scalekv_core.testing import ViewCase, checks_of
assert "pytest" not in sys.modules
assert checks_of("selector")
try:
    from scalekv_core.testing import run_checks
except ImportError as error:
    print(error)
"""


def test_without_the_extra_the_toy_works_and_one_error_names_it() -> None:
    """Hypothesis and pytest are imported only when needed."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)

    assert "needs hypothesis, which is not installed; run: pip install 'scalekv[testing]'" in done.stdout
    assert issubclass(MissingExtra, ImportError)
