"""The tables of ``scalekv plan``, readable on 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scalekv_core.cli import console
from scalekv_core.cli.installed import the_registry
from scalekv_core.memory.estimate import MemoryPlan, Need
from scalekv_core.memory.suggestions import cheapest, most_budget, most_images
from scalekv_core.shapes.geometry import format_bytes, plural


def print_plan(plan: MemoryPlan) -> None:
    """What is drawn, what it takes, and whether that fits."""
    print_batch(plan)
    print_need(plan)
    if plan.memory is not None:
        print_verdict(plan)


def print_batch(plan: MemoryPlan) -> None:
    """What is drawn, and how."""
    geometry, planned, batch = plan.batch.geometry, plan.planned, plan.batch
    dtype = str(geometry.dtype).removeprefix("torch.")
    held = max(planned.plan.slots().tolist()) / geometry.slots_per_token
    console.heading(f"{batch.model} under {planned.policy.name}, {planned.budget}")
    guided = " with guidance" if batch.guidance else ""
    rows = [
        ("batch", f"{plural(batch.images, 'image')}{guided}: {plural(geometry.rows, 'row')}, {dtype}"),
        ("maps", f"{geometry.schedule} ({geometry.schedule.total} tokens)"),
        ("held", f"{held:,.1f} of {geometry.schedule.last_history:,} tokens in the mean of layers and heads"),
    ]
    if plan.assumed is not None:
        layers = ", ".join(map(str, plan.assumed))
        rows.append(("drafters", f"assumed, not measured: layers {layers} (give --profile to plan with measured ones)"))
    console.pairs(rows)


def print_need(plan: MemoryPlan) -> None:
    """What it takes, part by part, beside the unmodified model."""
    console.heading("bytes")
    made = console.table("", "planned", "unmodified", text=("",))
    for (name, mine), (_, theirs) in zip(lines(plan.need), lines(plan.unmodified), strict=True):
        if mine or theirs:
            console.row(made, name, format_bytes(mine), format_bytes(theirs))
    console.row(made, "peak", format_bytes(plan.need.total), format_bytes(plan.unmodified.total))
    console.show(made)
    console.say(
        f"peak: while {plan.need.when}; unmodified while {plan.unmodified.when}. Cache and scratch are exact; the others "
        "count the tensors that the code makes, not the workspace of kernels."
    )


def lines(need: Need) -> Iterator[tuple[str, int]]:
    """What stands in the table, from what stays longest to what is gone soonest."""
    yield from need.weights.items()
    yield "text encoder" + " (let go)" * (not need.keeps_text_encoder), need.text_encoder
    yield "cache", need.cache
    yield "scratch", need.scratch
    yield "a layer attending", need.attending
    yield "activations", need.activations
    yield "decoding the images", need.decoding


def print_verdict(plan: MemoryPlan) -> None:
    """Whether it fits, and how much more or less would."""
    assert plan.memory is not None
    left = plan.memory - plan.need.total
    room = f"{format_bytes(left)} are left" if plan.fits else f"{format_bytes(-left)} are missing"
    console.heading(f"{'fits into' if plan.fits else 'DOES NOT FIT into'} {format_bytes(plan.memory)}: {room}")
    rows = [("largest batch", in_words(most_images(plan), "image", plan))]
    if plan.planned.policy.allocator.spends_all:
        budget = most_budget(plan)
        rows.append(("largest budget", "none fits" if budget is None else str(budget)))
    if not plan.fits:
        suggestion = cheapest(plan, registry=the_registry())
        needed = format_bytes(sum(plan.need.weights.values()))
        said = (
            f"{suggestion.change}: {format_bytes(suggestion.plan.need.total)}"
            if suggestion
            else f"none: weights take {needed}"
        )
        rows.append(("cheapest change", said))
    unmodified = plan.unmodified.total
    fits = "fits too" if unmodified <= plan.memory else "does not fit"
    rows.append(("unmodified", f"{fits}: {format_bytes(unmodified)}"))
    console.pairs(rows)


def in_words(count: int | None, what: str, plan: MemoryPlan) -> str:
    """A number that may not be there."""
    return f"not even one {what} fits" if count is None else f"{plural(count, what)} at this budget"


def print_json(plan: MemoryPlan) -> None:
    """Everything as plain values."""
    from scalekv_core.cli.record import as_json

    print(as_json(as_record(plan)), end="")


def as_record(plan: MemoryPlan) -> dict[str, Any]:
    """The plan, with what would fit."""
    record = plan.as_dict()
    if plan.memory is not None:
        budget, suggestion = most_budget(plan), cheapest(plan, registry=the_registry())
        record["largest_batch"] = most_images(plan)
        record["largest_budget"] = None if budget is None else str(budget)
        record["cheapest_change"] = None if suggestion is None else suggestion.change
    return record
