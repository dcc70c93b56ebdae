"""The tables of ``scalekv bench``, readable on 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from scalekv_core.bench import BenchResult, Comparison, ContenderFigures, MemoryFigures, Spread
from scalekv_core.cache.clock import STAGES
from scalekv_core.cli import console, figures
from scalekv_core.shapes.geometry import format_bytes

COLUMNS = 7
"""Contenders that a table of scales has side by side."""


def print_result(result: BenchResult) -> None:
    """Everything that was measured."""
    timed = [one for one in result.figures if one.by_scale]
    print_settings(result)
    if timed:
        print_time(timed)
        print_scales(timed)
    if clocked := [one for one in result.figures if one.stages]:
        print_stages(clocked)
    if weighed := [one for one in result.figures if one.memory is not None]:
        print_memory(weighed)


def print_settings(result: BenchResult) -> None:
    """What was measured, and which layers stand for which."""
    settings, geometry = result.settings, result.settings.geometry
    given = settings.as_dict()
    console.heading(given["measured"] + ("" if result.complete else ", cut short"))
    shape = f"{geometry.rows} rows, {geometry.layers} layers x {geometry.heads} heads x {geometry.head_dim}"
    load = " to ".join(f"{load:.1f}" for load in result.load)
    rows = [
        ("shape", f"{shape}, {given['dtype']}"),
        ("maps", f"{geometry.schedule} ({geometry.schedule.total} tokens)"),
        ("runs on", f"{given['device']}, threads {settings.threads}" + (f", load {load}" if load else "")),
        ("time", {"wall": "by the clock", "processor": "of the processor"}[settings.clock]),
        *result.notes.items(),
    ]
    console.pairs(rows)
    console.heading("layers that are run, and how many of the model's each stands for")
    console.pairs((one.contender.name, layers_of(one)) for one in result.figures)


def layers_of(one: ContenderFigures) -> str:
    """Which layers were run, in words."""
    runs = one.contender.layers
    if all(run.weight == 1 for run in runs):
        return "all" if len(runs) > 1 else f"layer {runs[0].layer}, the only one"
    return ", ".join(f"layer {run.layer} for {run.weight}" for run in runs)


def print_time(timed: Sequence[ContenderFigures]) -> None:
    """Seconds of an image, and their ratio to the unmodified cache."""
    times = timed[0].seconds.times if timed[0].seconds else 0
    console.heading(f"time of an image: median of {times}, the least and the most")
    made = _named_table("time", "least", "most", "x unmod.", "least ", "most ", "selection")
    for one in timed:
        console.row(made, one.contender.name, *time_cells(one))
    console.show(made)
    console.say("x unmod.: to the unmodified cache in the same round. selection: observe + select.")
    if why := timed[-1].missing.get("ratio"):
        console.say(f"no ratio: {why}.")


def time_cells(one: ContenderFigures) -> list[str]:
    """As they stand in the table."""
    times = [duration(x) for x in three(one.seconds)]
    ratios = [figures.number(x) for x in three(one.ratio)]
    selection = "" if one.selection is None else percent(one.selection.median)
    return [*times, *(ratios or [""] * 3), selection]


def print_scales(timed: Sequence[ContenderFigures]) -> None:
    """Median time of each scale."""
    console.heading("time of each scale, median")
    maps = str(timed[0].contender.geometry.schedule).split(" ")
    for first in range(0, len(timed), COLUMNS):
        part = timed[first : first + COLUMNS]
        made = console.table("map", *(one.contender.name for one in part))
        columns = [one.scale_seconds for one in part]
        for scale, name in enumerate(maps):
            console.row(made, name, *(duration(column[scale]) for column in columns))
        console.show(made)


def print_stages(clocked: Sequence[ContenderFigures]) -> None:
    """Share of each stage in the time of the calls."""
    console.heading("share of the time, median: reading the history, attention, and eviction")
    made = _named_table(*STAGES, "rest")
    for one in clocked:
        shares = [one.share(stage) for stage in STAGES]
        cells = ["" if share is None else percent(share.median) for share in (*shares, one.rest)]
        console.row(made, one.contender.name, *cells)
    console.show(made)


def print_memory(weighed: Sequence[ContenderFigures]) -> None:
    """Planned, resident, scratch and peak bytes."""
    console.heading("bytes of the cache, all layers; and of the process, the layers that were run")
    made = _named_table("planned", "resident", "scratch", "peak", "of plan", "process")
    for one in weighed:
        assert one.memory is not None
        console.row(made, one.contender.name, *memory_cells(one.memory))
    console.show(made)
    console.say(
        "peak: maximum of what the cache holds at any moment, with the copies and scores of eviction; without its inputs q, k "
        "and v and its output. of plan: peak / (planned + scratch). process: the most that the whole "
        "process had at one moment, weights and all."
    )


def memory_cells(memory: MemoryFigures) -> tuple[str, ...]:
    """As they stand in the table."""
    over = figures.number(memory.over_plan)
    maybe = ["" if figure is None else format_bytes(figure) for figure in (memory.planned, memory.process)]
    counts = (memory.resident, memory.scratch, memory.peak)
    return (maybe[0], *map(format_bytes, counts), over, maybe[1])


def print_comparison(comparison: Comparison) -> None:
    """Two records, the first one before, the second one after."""
    console.heading("before and after: time of an image, median")
    made = _named_table("x unmod.", "after", "change", "time", "after ")
    for one in comparison.changes:
        before, after = one.ratio
        change = f"{after / before - 1:+.1%}" if before else ""
        console.row(made, one.name, figures.number(before), figures.number(after), change, *map(duration, one.seconds))
    console.show(made)
    console.heading("before and after: share of selection, and peak bytes")
    made = _named_table("selection", "after", "peak", "after ")
    for one in comparison.changes:
        selection = ("", "") if one.selection is None else map(percent, one.selection)
        peak = ("", "") if one.peak is None else map(format_bytes, one.peak)
        console.row(made, one.name, *selection, *peak)
    console.show(made)
    console.say("x unmod.: to the unmodified cache of the same run, which another load of the machine does not change.")
    remarks = [f"{name}: {old} / {new}" for name, (old, new) in comparison.versions.items()]
    remarks += [f"in one record only: {', '.join(comparison.only)}"] if comparison.only else []
    remarks += [f"cut short: the {which} record" for which in comparison.cut_short]
    for remark in remarks:
        console.say(remark)


def duration(seconds: float) -> str:
    """A time as people read it.

    >>> duration(12.34), duration(0.0456), duration(0.000078)
    ('12.34 s', '45.6 ms', '78 us')
    """
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"


def percent(share: float) -> str:
    """A share with two digits, since one in a hundred matters here."""
    return figures.percent(share, 2)


def three(spread: Spread | None) -> tuple[float, ...]:
    """Median, least, most; nothing where nothing was measured."""
    return () if spread is None else (spread.median, spread.least, spread.most)


def _named_table(*columns: str) -> Table:
    """A table of contenders, whose names are never broken."""
    made = console.table("", *columns, text=("",))
    made.columns[0].no_wrap = True
    return made
