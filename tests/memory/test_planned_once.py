"""Each command plans each policy once for each schedule and batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scalekv_core.cli import main
from scalekv_core.memory import plan
from scalekv_core.pipeline import running
from scalekv_core.planning import planner, plans

CALLERS = (planner, plans, plan, running)
"""The modules that have imported the function."""
TINY = ("--layers", "2", "--heads", "2", "--head-dim", "4", "--maps", "1,2,4", "--repeats", "1", "--stages", "0")


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str, int]]:
    """{(policy, schedule, rows): number of plans}."""
    counts: Counter[tuple[str, str, int]] = Counter()
    plan_policy = planner.plan_policy

    def counting(policy: Any, geometry: Any, **how: Any) -> planner.Planned:
        counts[policy.name, str(geometry.schedule), geometry.rows] += 1
        return plan_policy(policy, geometry, **how)

    for module in CALLERS:
        monkeypatch.setattr(module, "plan_policy", counting)
    return counts


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (("bench", *TINY), 2),
        (("plan", "--model", "var-tiny"), 2),
        (("generate", "3", "8"), 4),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_command_plans_each_policy_once(
    planned: Counter[tuple[str, str, int]], tmp_path: Path, arguments: tuple[str, ...], rows: int
) -> None:
    """Each policy is planned once for its schedule and batch."""
    policies = ("uniform",) if arguments[0] == "plan" else ("uniform", "snapkv")
    chosen = [part for name in policies for part in ("--policy", name)]
    out = ("--out", str(tmp_path / "out")) if arguments[0] == "generate" else ()
    with pytest.raises(SystemExit) as over:
        main([*arguments, *chosen, "--budget", "50%", *out])

    assert 0 == over.value.code
    assert [1] * len(policies) == list(planned.values())
    assert [(name, rows) for name in policies] == [(name, batch) for name, _, batch in planned]
