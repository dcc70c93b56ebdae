"""Every message that a user can meet, by provoking it: (who, how). ``python -m tests.messages`` writes them to one page.

To add one, append to the list of its room; the page is compared by ``tests/test_messages.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from attrs import evolve
from torch import nn

from scalekv_core import Budget, Registry, ScaleKVError, ScaleSchedule, compress, hookimpl, plan_policy
from scalekv_core.planning.profiles import Profiles
from scalekv_core.testing import toy
from tests.plain import ByProfile, profile_of

PAGE = Path(__file__).parent / "data" / "messages.txt"
TOY = Registry.of(toy)
PROFILED = evolve(toy.latest(), classifier=ByProfile())
OTHER = ScaleSchedule([(1, 1), (1, 3), (3, 3)])


def entering(policy: Any = "toy-latest", budget: str | None = None, *, model: Any = None, **how: Any) -> None:
    """Enters a block."""
    with compress(toy.ToyCard().load() if model is None else model, policy, budget, **{"registry": TOY, **how}):
        pass


def attached_twice() -> None:
    model = toy.ToyCard().load()
    with compress(model, "toy-latest", registry=TOY):
        entering(model=model)


def registering(**hooks: Any) -> Registry:
    plugin = SimpleNamespace(__name__="my_plugin", **{name: hookimpl(made) for name, made in hooks.items()})
    return Registry.of(toy, plugin)


MESSAGES: list[tuple[str, Callable[[], object]]] = [
    ("shapes: no map", lambda: ScaleSchedule([])),
    ("shapes: a size of 0", lambda: ScaleSchedule([(0, 1)])),
    ("shapes: no whole number", lambda: ScaleSchedule([(1.5, 1)])),  # type: ignore[list-item]
    ("shapes: a position outside", lambda: toy.SCHEDULE.scale_of(29)),
    ("budget: no budget", lambda: Budget.parse("lots")),
    ("budget: no unit", lambda: Budget.parse("10")),
    ("budget: nothing", lambda: Budget.parse("0%")),
    ("budget: 400 digits", lambda: Budget.parse("9" * 400 + "%")),
    ("budget: more than the whole history", lambda: entering(budget="100.0001%")),
    ("budget: too small, in tokens", lambda: entering(budget="0.5 tokens")),
    ("budget: too small, in percent", lambda: entering(budget="1%")),
    ("budget: too small, in bytes", lambda: plan_policy(toy.latest(), toy.GEOMETRY, budget="10 B")),
    ("profile: none", lambda: entering(PROFILED)),
    ("profile: of another model", lambda: entering(PROFILED, profile=profile_of(name="another"))),
    ("profile: of another shape", lambda: entering(PROFILED, profile=profile_of(heads=8))),
    ("profile: of another schedule", lambda: entering(PROFILED, profile=profile_of(OTHER))),
    ("profile: no profile", lambda: Profiles.of("profile.safetensors")),  # type: ignore[arg-type]
    ("profile: twice", lambda: Profiles.of([profile_of(), profile_of()])),
    ("policy: unknown name", lambda: entering("toy-last")),
    ("policy: no name", lambda: TOY.policy(3)),  # type: ignore[arg-type]
    ("policy: unknown part", lambda: entering(selector="toy-lates")),
    ("policy: a part of another kind", lambda: entering(selector=3)),
    ("policy: unknown option", lambda: entering(window=3)),
    ("plugin: unknown hook", lambda: registering(scalekv_selectors=lambda: {"mine": toy.Latest})),
    ("plugin: nothing", lambda: registering()),
    ("plugin: no mapping", lambda: registering(scalekv_policies=lambda: ["mine"])),
    ("plugin: a hook that raises", lambda: registering(scalekv_policies=lambda: {}["policies"])),
    ("plugin: a taken name", lambda: registering(scalekv_policies=lambda: {"toy-latest": toy.latest})),
    ("plugin: a factory of something else", lambda: registering(scalekv_policies=lambda: {"x": dict}).policy("x")),
    ("session: no model", lambda: entering(model="toy")),
    ("session: an unknown model", lambda: entering(model=nn.Linear(1, 1))),
    ("session: a wrapped model", lambda: entering(model=nn.DataParallel(toy.ToyCard().load().module))),
    ("session: attached twice", attached_twice),
    ("session: nothing generated", entering),
    ("session: a plan of another model", lambda: entering(plan_policy(toy.latest(), evolve(toy.GEOMETRY, layers=2)))),
    ("session: a plan and a budget", lambda: entering(plan_policy(toy.latest(), toy.GEOMETRY), "10%")),
]


def page() -> str:
    """All messages, one paragraph each."""
    return "\n\n".join(f"{who}\n  {provoked(how)}" for who, how in MESSAGES) + "\n"


def provoked(how: Callable[[], object]) -> str:
    """The class and text of the error that this ends in."""
    try:
        with torch.no_grad():
            how()
    except ScaleKVError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was refused")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
