"""The output of ``scalekv check`` for strategies that are right, wrong, broken, endless, or no strategies."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv_core import hookimpl
from scalekv_core.plugins import registry as registries
from scalekv_core.plugins.registry import Registry
from scalekv_core.testing import toy
from tests.wrong_strategies import selectors


class Wrong:
    """A plugin whose selectors are wrong in several ways."""

    __name__ = "wrong"

    @hookimpl
    def scalekv_token_selectors(self) -> dict[str, Callable[[], object]]:
        return {
            "first-row": selectors.FirstRow,
            "raises": selectors.ThirteenMaps,
            "endless": selectors.Endless,
            "a-list": selectors.AList,
            "no-selector": dict,
        }


@pytest.fixture
def wrong(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs the plugin above beside the toy."""
    made = Registry.of(toy, Wrong())
    monkeypatch.setattr(registries, "shared_registry", lambda: made)


def test_a_strategy_that_passes(run) -> None:
    """A strategy that passes prints a table of checks and exits with 0."""
    ran = run("check", "toy-latest", "--kind", "selector", "--examples", 3)

    assert 0 == ran.code
    assert "selector toy-latest" in ran.out
    assert "rows_are_apart" in ran.out
    assert "FAILED" not in ran.out
    assert 80 >= max(map(len, ran.out.splitlines()))


def test_an_adapter_and_a_model(run) -> None:
    """Adapters are checked on an installed model that comes with its weights."""
    ran = run("check", "toy", "--examples", 3)

    assert 0 == ran.code
    assert "restores_exactly" in ran.out
    assert "generates_images" in ran.out


def test_a_failed_check_is_named_with_its_smallest_case(run, wrong) -> None:
    """A failure exits with 1, names the plugin, and prints the command that checks the case again."""
    ran = run("check", "first-row", "--check", "rows_permute", "--examples", 20)

    assert 1 == ran.code
    assert "plugin 'wrong'" in ran.out
    assert "FAILED rows_permute" in ran.out
    again = re.search(r"scalekv (check first-row --kind selector --check rows_permute) --case \"(.*)\"", ran.out)
    assert again is not None
    replayed = run(*again[1].split(), "--case", again[2])
    assert 1 == replayed.code
    assert "FAILED" in replayed.out


@pytest.mark.parametrize(
    ("name", "said"), [("raises", "raised IndexError: tuple index out of range"), ("a-list", "it returned list")]
)
def test_whatever_it_does_the_table_goes_on(run, wrong, name: str, said: str) -> None:
    """A strategy that raises, or answers with another type, fails checks; later checks still run."""
    ran = run("check", name, "--examples", 1)

    assert 1 == ran.code
    assert said in ran.out
    assert "claims_are_known" in ran.out


def test_one_fault_is_told_once_with_a_case(run, wrong) -> None:
    """A selector that raises fails most checks for one reason: it is shown under the one with the smallest case."""
    ran = run("check", "raises", "--examples", 1)

    assert 1 == ran.out.count("check it again:")
    assert 1 == ran.out.count("smallest case")
    assert "stays_on_the_device" in ran.out.split("and also")[1]


def test_one_that_hangs_is_stopped(run, wrong) -> None:
    """A check that hangs is stopped and reported with its case."""
    ran = run("check", "endless", "--check", "fills_its_capacity", "--timeout", 1)

    assert 1 == ran.code
    assert "no answer within 1 s of processor time" in ran.out
    assert "maps=" in ran.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody",), "no strategy is called 'nobody'"),
        (("toy-latest", "--kind", "codec"), "no codec is called 'toy-latest'"),
        (("toy-latest", "--kind", "codex"), "did you mean 'codec'"),
        (("toy-latest", "--check", "rows"), "no check of a policy is called 'rows'"),
        (("toy-latest", "--case", "rows=2"), "--case needs --check"),
        (("toy-latest", "--kind", "selector", "--option", "window"), "an option is written NAME=VALUE; got 'window'"),
        (("toy-latest", "--option", "window=2"), "say which one the options are for, with --kind"),
        (("no-selector",), "must be a TokenSelector; got dict"),
        (("torch.nn:ReLU",), "ReLU is no strategy"),
        (("torch.nn:Nothing",), "'torch.nn:Nothing' cannot be made (AttributeError"),
        (("no_such_module:X",), "'no_such_module:X' cannot be made (ModuleNotFoundError"),
        (("toy-latest", "--kind", "selector", "--check", "rows_permute", "--case", "rowz=2"), "has no 'rowz'"),
        (("toy-latest", "--kind", "selector", "--check", "rows_permute", "--case", "maps=1y2"), "'1y2'"),
        (("toy-latest", "--kind", "selector", "--check", "rows_permute", "--case", "scale=4"), "no history"),
        (("toy-latest", "--kind", "selector", "--check", "rows_permute", "--case", "rows=x"), "rows is of type int"),
    ],
)
def test_mistakes_are_one_line(run, wrong, arguments: tuple[str, ...], said: str) -> None:
    """A mistake exits with 2 and one line."""
    ran = run("check", *arguments)

    assert 2 == ran.code
    assert said in ran.complaint


def test_a_class_that_is_not_registered(run) -> None:
    """module:Class is checked without being registered."""
    ran = run("check", "scalekv_core.testing.toy:Latest", "--check", "indices_ascend", "--examples", 3)

    assert 0 == ran.code
    assert "not registered" in ran.out


def test_one_case_of_one_check(run) -> None:
    """--case prints whether the check passes or does not apply."""
    case = ("check", "toy-latest", "--kind", "selector", "--check", "rows_permute", "--case")

    assert "rows_permute: passed" in run(*case, "maps=1x3,1x1 keep=2").out
    assert "does not apply to this case" in run(*case, "maps=1x2,1x1 keep=5").out


SELECTOR = """
from attrs import frozen
from scalekv_core.testing.toy import Latest

@frozen
class Mine(Latest):
    more: int = 0

    def select(self, view, keep):
        return super().select(view, keep + self.more)
"""


def test_options(run, tmp_path: Path) -> None:
    """--option sets options of the strategy, and the printed command repeats them."""
    (tmp_path / "a_selector_of_mine.py").write_text(SELECTOR)
    check = ("check", "a_selector_of_mine:Mine", "--check", "fills_its_capacity", "--examples", 2)

    assert 0 == run(*check).code
    ran = run(*check, "--option", "more=1")
    assert 1 == ran.code
    again = "scalekv check a_selector_of_mine:Mine --kind selector --check fills_its_capacity --option more=1 --case"
    assert again in ran.out
    assert "cannot take more='few': wanted int" in run(*check, "--option", "more=few").complaint


MODELS = """
from scalekv_core.testing import TestModel, toy

small = TestModel.of_card(toy.ToyCard())
number = 3
"""


def test_a_model_for_an_adapter(run, tmp_path: Path) -> None:
    """A TestModel from a Python file replaces the installed one."""
    (tmp_path / "models.py").write_text(MODELS)
    check = ("check", "toy", "--kind", "adapter", "--check", "restores_exactly", "--examples", 2, "--model")

    assert 0 == run(*check, tmp_path / "models.py:small").code
    for model, said in {
        "models.py:number": "must be a scalekv_core.testing.TestModel; got int",
        "models.py:nothing": "cannot be loaded (AttributeError",
        "nowhere.py:small": "a test model is given as FILE.py:NAME; got 'nowhere.py:small'",
        "models": "a test model is given as FILE.py:NAME; got 'models'",
    }.items():
        ran = run(*check, model)
        assert 2 == ran.code
        assert said in ran.complaint


def test_python_without_assertions_is_refused(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks are assert statements; with -O everything would seem to pass."""
    from scalekv_core.testing import running

    monkeypatch.setattr(running, "_checks_are_on", lambda: False)
    ran = run("check", "toy-latest")

    assert 2 == ran.code
    assert "without -O" in ran.complaint


def test_a_check_that_does_not_apply_is_one_line(run) -> None:
    """Asked for alone, it has checked nothing."""
    ran = run("check", "toy-latest", "--kind", "selector", "--check", "options_work")

    assert 2 == ran.code
    assert "nothing of selector 'toy-latest' was checked: it has no options with other values" in ran.complaint


def test_an_unknown_kind_is_one_line(run) -> None:
    """It lists the kinds."""
    ran = run("check", "toy-latest", "--kind", "select")

    assert 2 == ran.code
    assert "no kind of strategy is called 'select'; did you mean 'selector'? Known: " in ran.complaint


def test_a_class_of_another_kind_is_one_line(run) -> None:
    """The kind that it is stands in the message."""
    ran = run("check", "scalekv_core.testing.toy:Latest", "--kind", "merger")

    assert 2 == ran.code
    assert "'scalekv_core.testing.toy:Latest' is a selector, not a merger; give --kind selector" in ran.complaint
