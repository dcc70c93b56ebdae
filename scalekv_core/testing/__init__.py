"""The conformance kit: checks for strategies and adapters, cases to make them on, a state machine, a toy model.

In a test suite::

    from scalekv_core.testing import parametrize_with_checks

    @parametrize_with_checks({"mine": MySelector})
    def test_my_strategies_pass_all_checks(check):
        check()

and without one: ``scalekv check NAME``, or ``run_checks``. Names are loaded when they are first asked for, so that the
toy model needs neither Hypothesis nor pytest; for the rest: ``pip install 'scalekv[testing]'``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from scalekv_core.errors import missing_extra

if TYPE_CHECKING:
    from scalekv_core.testing.cases import CodecCase, GenerationCase, ImageCase, PlanCase, ProfileCase, ViewCase
    from scalekv_core.testing.common import NotApplicable
    from scalekv_core.testing.conformance import parametrize_with_checks
    from scalekv_core.testing.kinds import Check, checks_of
    from scalekv_core.testing.machine import machine_for
    from scalekv_core.testing.outcomes import Outcome
    from scalekv_core.testing.running import replay, run_checks
    from scalekv_core.testing.testmodels import TestModel

__all__ = [
    "Check",
    "CodecCase",
    "GenerationCase",
    "ImageCase",
    "NotApplicable",
    "Outcome",
    "PlanCase",
    "ProfileCase",
    "TestModel",
    "ViewCase",
    "checks_of",
    "machine_for",
    "parametrize_with_checks",
    "replay",
    "run_checks",
]

_MODULES = {
    "cases": ("CodecCase", "GenerationCase", "ImageCase", "PlanCase", "ProfileCase", "ViewCase"),
    "common": ("NotApplicable",),
    "conformance": ("parametrize_with_checks",),
    "machine": ("machine_for",),
    "kinds": ("Check", "checks_of"),
    "running": ("Outcome", "replay", "run_checks"),
    "testmodels": ("TestModel",),
}
_FORMER_NAMES = {
    "DrawCase": "GenerationCase",
    "Promise": "Check",
    "Specimen": "TestModel",
    "promises": "checks_of",
}
"""Names of version 0.1 that still work, for one more version."""
_NEEDS = {
    "conformance": ("pytest", "hypothesis"),
    "machine": ("hypothesis",),
    "running": ("hypothesis",),
}

if "pytest" in sys.modules:  # a failing check then shows the values that it compared
    sys.modules["pytest"].register_assert_rewrite(f"{__name__}.checks", f"{__name__}.common")


def __getattr__(name: str) -> Any:
    name = _FORMER_NAMES.get(name, name)
    for module, names in _MODULES.items():
        if name in names:
            for package in _NEEDS.get(module, ()):
                if importlib.util.find_spec(package) is None:
                    raise missing_extra(package, "testing", f"scalekv_core.testing.{name}")
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
