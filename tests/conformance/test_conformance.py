"""Every name on our own shelves keeps every promise of its kind: a new one is tested the moment it is registered."""

from __future__ import annotations

from collections.abc import Callable

from scalekv_core import Registry
from scalekv_core.testing import machine_for, parametrize_with_checks, toy
from tests.conformance.small_models import SMALL_MODELS

REGISTRY = Registry.installed(["scalekv-policies", "scalekv-adapters"])
NAMES = sorted({name for _, name in REGISTRY.offers})
TOY = Registry.of(toy)


@parametrize_with_checks(NAMES, registry=REGISTRY, test_models=SMALL_MODELS)
def test_whatever_is_registered_keeps_its_promises(check: Callable[[], None]) -> None:
    """Policies and their parts, adapters on a tiny model, image models that come with weights."""
    check()


@parametrize_with_checks(["toy", "toy-latest"], registry=TOY)
def test_the_toy_keeps_its_promises(check: Callable[[], None]) -> None:
    """What tutorials begin with is held to the same."""
    check()


for _name in REGISTRY.names("policy"):
    _machine = machine_for(REGISTRY.offer("policy", _name).factory)
    globals()[f"Test{_name.title().replace('-', '')}Machine"] = _machine.TestCase
