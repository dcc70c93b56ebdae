"""``scalekv policies``, ``models``, ``plugins`` and ``doctor``."""

from __future__ import annotations

import pytest

from scalekv_core.cli import doctor
from scalekv_core.cli.policies import rule_in_words, type_in_words
from scalekv_core.errors import PluginError
from scalekv_core.plugins import registry as registries
from scalekv_core.plugins.offers import Offer, Owner
from scalekv_core.plugins.registry import Registry

COMMANDS = ("policies", "models", "plugins", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_fits_eighty_columns(run, command: str) -> None:
    """Tables fit eighty columns."""
    ran = run(command)

    assert 0 == ran.code
    assert 80 >= max(len(line) for line in ran.out.splitlines())


def test_policies_tell_parts_options_and_owner(run) -> None:
    """The list has parts, options and owner of each policy."""
    out = run("policies").out

    for word in ("windowed", "Tokens of a window.", "window=2 end=last", "Window et al. 2026", "50%", "plugin 'tests'"):
        assert word in out


def test_a_policy_in_detail_tells_types_defaults_and_limits(run) -> None:
    """The page of a policy gives type, default and limits of each option."""
    lines = [line.split() for line in run("policies", "windowed").out.splitlines()]

    assert ["window", "2", "int", ">=", "1"] in lines
    assert ["end", "last", "text", "last,", "first"] in lines


def test_a_policy_that_is_not_there(run) -> None:
    """An unknown name is refused with the nearest one."""
    ran = run("policies", "windwed")

    assert 2 == ran.code
    assert "did you mean 'windowed'?" in ran.complaint


def test_models_tell_shape_and_bytes(run) -> None:
    """The list has shapes and the bytes of the unmodified cache per row, without loading."""
    out = run("models").out

    assert "3, each with 4 heads of width 8" in out
    assert "21.8 KiB a row unmodified" in out
    assert "needs --weights" in out


def test_plugins_tell_who_offers_what(run) -> None:
    """The list is by plugin and kind."""
    out = run("plugins").out

    assert ["windowed", "profiled", "everything"][0] in out
    assert "toy-trouble, toy-weights" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_problems_are_told_first_by_every_command(run, broken, command: str) -> None:
    """A broken plugin is one line on stderr; the other plugins work."""
    ran = run(command)

    assert f"scalekv: {broken}" == ran.complaint
    assert ran.out
    assert (1 if command == "doctor" else 0) == ran.code


def test_a_problem_is_not_told_twice(run, broken) -> None:
    """An error about an unknown name does not repeat a problem that is printed already."""
    ran = run("generate", "3", "--model", "toy", "--policy", "wndowed")

    assert [f"scalekv: {broken}", "scalekv: no policy is called 'wndowed'"] == [
        line.split(";")[0] for line in ran.err.splitlines()
    ]


def test_a_policy_that_cannot_be_made_hides_no_other(run, registry: Registry, monkeypatch) -> None:
    """A policy that cannot be made is listed with the reason, and doctor reports it."""
    offer = Offer("policy", "sick", lambda: 1 / 0, Owner("sick-plugin"))
    sick = Registry({**registry.offers, ("policy", "sick"): offer}, registry.owners)
    monkeypatch.setattr(registries, "shared_registry", lambda: sick)

    assert "cannot be made (ZeroDivisionError" in " ".join(run("policies").out.split())
    ran = run("doctor")
    assert 1 == ran.code
    assert "1 to look at" in ran.out
    assert "'sick-plugin'" in ran.out


class TestDoctor:
    def test_it_is_well(self, run) -> None:
        """doctor prints versions, devices, kernels, extras and plugins, and ends with ok."""
        out = run("doctor").out

        for word in ("scalekv", "torch", "python", "cpu", "attention kernels: ", "matplotlib", "tests"):
            assert word in out
        assert "ok" == out.split()[-1]

    def test_no_plugin_at_all(self, run, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without any plugin doctor says what to do."""

        def nothing() -> Registry:
            raise PluginError("no plugin is installed in the entry-point group 'scalekv'; install the package")

        monkeypatch.setattr(registries, "shared_registry", nothing)

        ran = run("doctor")
        assert 1 == ran.code
        assert "no plugin is installed" in ran.out
        assert 2 == run("policies").code

    def test_an_extra_that_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """doctor says how to install a missing extra."""
        monkeypatch.setattr(doctor.metadata, "requires", lambda name: ['nothere>=1; extra == "plot"', "torch>=2"])

        assert [("nothere", "not installed: pip install 'scalekv[plot]'  (plot)")] == doctor.extras()


def test_types_and_rules_in_words() -> None:
    """Types and validators are described in words."""
    assert "tuple of float" == type_in_words(tuple[float, ...])
    assert "" == rule_in_words(None)
