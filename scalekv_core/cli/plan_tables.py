"""The tables of ``scalekv plan``, and its JSON."""

from __future__ import annotations

from typing import Any

from scalekv_core.cli import console, figures
from scalekv_core.cli.installed import the_registry
from scalekv_core.memory.free import told_apart
from scalekv_core.memory.plan import MemoryPlan
from scalekv_core.memory.suggestions import Suggestions
from scalekv_core.shapes.geometry import format_bytes, plural


def print_plan(plan: MemoryPlan) -> None:
    """What is generated, what it needs, and whether that fits."""
    print_batch(plan)
    print_need(plan)
    if plan.memory is not None:
        print_verdict(plan, plan.memory)


def print_batch(plan: MemoryPlan) -> None:
    """What is generated, and how."""
    geometry, planned, batch = plan.batch.geometry, plan.planned, plan.batch
    dtype = str(geometry.dtype).removeprefix("torch.")
    kept, history = max(planned.plan.slots().tolist()) / geometry.slots_per_token, geometry.schedule.last_history
    console.heading(f"{batch.model} under {planned.policy.name}, {planned.budget}")
    guided = " with guidance" if batch.guidance else ""
    rows = [
        ("batch", f"{plural(batch.images, 'image')}{guided}: {plural(geometry.rows, 'row')}, {dtype}"),
        ("maps", f"{geometry.schedule} ({geometry.schedule.total} tokens)"),
        ("kept", f"{figures.faithful(kept, 1, (0.0, float(history)), '')} of {history:,} tokens, on average per head"),
    ]
    if plan.assumed is not None:
        layers = ", ".join(map(str, plan.assumed))
        rows.append(("drafters", f"assumed, not measured: layers {layers} (give --profile to plan with measured ones)"))
    console.pairs(rows)


def print_need(plan: MemoryPlan) -> None:
    """The parts beside those of the unmodified model."""
    console.heading("bytes")
    made = console.table("", "planned", "unmodified", text=("",))
    for (name, mine), (_, theirs) in zip(plan.need.parts.items(), plan.unmodified.parts.items(), strict=True):
        if mine or theirs:
            console.row(made, name, format_bytes(mine), format_bytes(theirs))
    console.row(made, "peak", format_bytes(plan.need.total), format_bytes(plan.unmodified.total))
    console.show(made)
    console.say(
        f"peak: while {plan.need.when}; unmodified: while {plan.unmodified.when}. Cache and scratch are exact. The other figures "
        "count the tensors that the code makes, not the workspace of kernels."
    )


def print_verdict(plan: MemoryPlan, memory: int) -> None:
    """Whether it fits, and what else would."""
    left = memory - plan.need.total
    difference = f"{format_bytes(left)} left" if plan.fits else f"{format_bytes(-left)} missing"
    console.heading(f"{'fits into' if plan.fits else 'DOES NOT FIT into'} {format_bytes(memory)}: {difference}")
    suggestions = Suggestions(plan, registry=the_registry())
    images, budget = suggestions.largest_batch, suggestions.largest_budget
    rows = [
        ("largest batch", "not even one image fits" if images is None else f"{plural(images, 'image')} at this budget")
    ]
    if plan.planned.policy.allocator.spends_all:
        rows.append(("largest budget", "none fits" if budget is None else str(budget)))
    if not plan.fits:
        rows.append(("cheapest change", cheapest_change(suggestions)))
    unmodified, there = told_apart(plan.unmodified.total, memory)
    fits = "fits too" if plan.unmodified.total <= memory else "does not fit"
    rows.append(("unmodified", f"{fits}: {unmodified} of {there}"))
    console.pairs(rows)


def cheapest_change(suggestions: Suggestions) -> str:
    """The change and what the batch needs after it."""
    if (found := suggestions.cheapest) is not None:
        return f"{found.change}: {format_bytes(found.plan.need.total)}"
    return f"none: weights take {format_bytes(sum(suggestions.plan.need.weights.values()))}"


def print_json(plan: MemoryPlan) -> None:
    """Everything as plain values."""
    from scalekv_core.cli.record import as_json

    print(as_json(as_record(plan)), end="")


def as_record(plan: MemoryPlan) -> dict[str, Any]:
    """The plan, with what would fit; ``null`` says why for each figure that is null."""
    record = plan.as_dict()
    if plan.memory is None:
        return record
    found = Suggestions(plan, registry=the_registry())
    record["largest_batch"] = found.largest_batch
    record["largest_budget"] = None if found.largest_budget is None else str(found.largest_budget)
    record["cheapest_change"] = None if found.cheapest is None else found.cheapest.change
    return {**record, "null": {name: why for name, why in _reasons(plan).items() if record[name] is None}}


def _reasons(plan: MemoryPlan) -> dict[str, str]:
    spends = plan.planned.policy.allocator.spends_all
    return {
        "largest_batch": "not even one image fits",
        "largest_budget": "no budget fits"
        if spends
        else f"policy {plan.planned.policy.name!r} does not spend its budget",
        "cheapest_change": "the batch fits" if plan.fits else "no change helps",
    }
