"""``scalekv bench --launches``: kernels and host time of each attend, for every policy and codec."""

from __future__ import annotations

import json as json_lines
from collections.abc import Iterator, Sequence
from pathlib import Path

from scalekv_core.bench.contenders import Contender, PolicyContender, Unmodified
from scalekv_core.bench.launches import OTHER, REPEATS, TINY, LaunchFigures, measure_launches
from scalekv_core.cache.clock import STAGES
from scalekv_core.cli import console, writing
from scalekv_core.errors import ScaleKVError
from scalekv_core.planning.assumed import assumed_profile
from scalekv_core.planning.planner import plan_policy
from scalekv_core.plugins.registry import shared_registry

BUDGET = "20%"
CODED = ("full", "uniform", "fold")
"""Policies that are shown under every codec: one that keeps all, one that evicts, one that folds."""
WHATS = ("kept", "evicted")


def run(policies: Sequence[str], json: Path | None) -> None:
    """Measures and prints; all policies, and codecs under some of them, unless policies are named.

    Raises:
        UnknownName: a policy that is not installed.
    """
    if json is not None:
        writing.check_file(json, "--json")
    maps = f"{TINY.rows} rows, {TINY.heads} heads of width {TINY.head_dim}, maps {TINY.schedule}"
    console.heading(f"kernels and host time of each attend: {maps}, budget {BUDGET}")
    figures = [measure_launches(one, repeats=REPEATS) for one in _contenders(policies)]
    console.say("kept: everything is kept; evicted: some tokens are; us: microseconds of the host, least to most")
    _print_totals(figures)
    _print_stages(figures)
    if json is not None:
        record = {"shape": maps, "budget": BUDGET, "contenders": [one.as_dict() for one in figures]}
        with writing.written_together(json.parent) as stage:
            (stage / json.name).write_text(json_lines.dumps(record, indent=1) + "\n", encoding="utf-8")
        console.say(f"written to {json}")


def _contenders(names: Sequence[str]) -> Iterator[Contender]:
    registry = shared_registry()
    codecs = [codec for codec in registry.names("codec") if codec != "dense"]
    yield Unmodified.of(TINY, every_layer=True)
    for name in names or registry.names("policy"):
        for codec in [None, *(codecs if name in CODED or names else ())]:
            policy = registry.policy(name, codec=codec)
            budget = BUDGET if policy.allocator.spends_all else policy.budget
            try:
                planned = plan_policy(policy, TINY, budget=budget, profile=assumed_profile(TINY, (0,)))
            except ScaleKVError as error:  # a policy for certain models only
                console.complain(f"{policy.name} is left out: {error}")
                break
            yield PolicyContender.of(planned, every_layer=True)


def _print_totals(figures: Sequence[LaunchFigures]) -> None:
    columns = [f"{unit} {what}" for unit in ("kernels", "us") for what in WHATS]
    table = console.table("cache", *columns, text={"cache"})
    for one in figures:
        kernels = [_range(one.kernels(what)) for what in WHATS]
        console.row(table, one.name, *kernels, *(_range(one.host_us(what)) for what in WHATS))
    console.show(table)


def _print_stages(figures: Sequence[LaunchFigures]) -> None:
    """The kernels of the attend that launches most, by scale."""
    console.heading("kernels by stage, of the attend that launches most")
    table = console.table("cache", "scale", *STAGES, OTHER, text={"cache"})
    for one in figures:
        most = max(one.attends, key=lambda attend: attend.launched)
        console.row(table, one.name, most.scale, *(most.kernels.get(stage, 0) for stage in (*STAGES, OTHER)))
    console.show(table)


def _range(pair: tuple[float, float] | None) -> str:
    if pair is None:
        return ""
    least, most = (f"{number:.0f}" for number in pair)
    return least if least == most else f"{least} to {most}"
