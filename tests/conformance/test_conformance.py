"""Every registered name passes every check of its kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import scalekv_policies
from scalekv_core import Registry
from scalekv_core.testing import machine_for, parametrize_with_checks, toy
from tests.conformance.small_models import SMALL_MODELS

REGISTRY = Registry.installed(["scalekv-policies", "scalekv-adapters", "scalekv-metrics"])
NAMES = sorted({name for _, name in REGISTRY.offers})
TOY = Registry.of(toy, scalekv_policies)
SELECTOR_ELSEWHERE = "selector.toy-latest-another_process_agrees"


@pytest.mark.thorough
@parametrize_with_checks(NAMES, registry=REGISTRY, test_models=SMALL_MODELS)
def test_whatever_is_registered_passes_all_checks(check: Callable[[], None]) -> None:
    """Policies and their parts, adapters on a small model, image models that come with weights."""
    check()


def quick(marked: pytest.MarkDecorator) -> pytest.MarkDecorator:
    """The same checks; those that start a process are thorough, except for the selector's."""
    names, params = marked.args
    slow = {param.id for param in params if param.id.endswith("another_process_agrees")} - {SELECTOR_ELSEWHERE}
    return pytest.mark.parametrize(
        names,
        [pytest.param(*p.values, id=p.id, marks=[*p.marks, *[pytest.mark.thorough] * (p.id in slow)]) for p in params],
    )


@quick(parametrize_with_checks(["toy", "toy-latest", "fold", "int8"], registry=TOY))
def test_one_of_each_kind_passes_all_checks(check: Callable[[], None]) -> None:
    """The toy's policy, selector, adapter and model, a merger, a codec and a folding policy."""
    check()


for _name in REGISTRY.names("policy"):
    _machine = machine_for(REGISTRY.offer("policy", _name).factory)
    _test = _machine.TestCase
    _test.pytestmark = [] if _name in ("fold", "scalekv") else [pytest.mark.thorough]
    globals()[f"Test{_name.title().replace('-', '')}Machine"] = _test
