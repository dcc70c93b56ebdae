"""What ``scalekv compare`` and ``recommend`` print of a study: its plan, its ranking, and what fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalekv_core.cli import console
from scalekv_core.cli.figures import number, percent
from scalekv_core.cli.installed import the_registry
from scalekv_core.compare.checking import unmeasured
from scalekv_core.compare.compact import located
from scalekv_core.compare.pace import expected, paces
from scalekv_core.compare.ranking import Interval, Ranked
from scalekv_core.compare.recommendation import needed, recommend
from scalekv_core.compare.results import Results, Row, results_of
from scalekv_core.compare.state import cells_left, failures, metric_gaps
from scalekv_core.compare.store import Store
from scalekv_core.compare.study_plan import StudyPlan
from scalekv_core.errors import unknown_name
from scalekv_core.planning.budget import read_bytes
from scalekv_core.shapes.geometry import format_bytes, plural


def tell_plan(plan: StudyPlan) -> None:
    """What will run, how much each setting holds, and what cannot be measured."""
    question = plan.question
    images = sum(len(question.images(model)) for model in question.models)
    settings = len(plan.measured)
    console.say(
        f"{plural(settings, 'setting')} x {plural(images, 'image')} = {plan.cells} cells, beside the unmodified images; "
        f"metrics: {', '.join(question.metrics)}"
    )
    table = console.table("model", "setting", "cache held", "of unmodified", text=("model", "setting"))
    for one in plan.settings:
        if one.footprint is not None:
            share = one.footprint.most_planned / one.footprint.unmodified
            console.row(
                table, one.setting.model, one.setting.label, format_bytes(one.footprint.most_planned), percent(share)
            )
    console.out.print(table)
    for one in plan.refused:
        console.complain(f"{one.setting.label!r} is not measured: {one.refused}")
    for metric, model, own in unmeasured(question, the_registry()):
        console.complain(f"metric {metric!r} has no figures of model {model!r}: it measures {own} only")


def tell_time(plan: StudyPlan, begun: Store | None, *, retry: bool = False) -> None:
    """How long what is missing will take, as far as finished cells tell."""
    left = cells_left(plan, begun, retry=retry)
    cells = sum(left.values())
    if cells < plan.cells:
        console.say(f"finished: {plan.cells - cells} of {plan.cells} cells")
    if cells:
        time = expected(left, {} if begun is None else paces(begun))
        console.say(f"expected time for {cells} cells: {time}")


def tell_results(store: Store, folder: Path) -> None:
    """The ranking of each model by its last metric, and what failed."""
    for results in results_of(store, the_registry()):
        metric = store.question["metrics"][-1]
        console.heading(f"{results.model}, {plural(len(results.images), 'image')}: ranked by {metric}")
        console.out.print(ranking_table(results, metric))
    failed = failures(store)
    for label, reason, images in failed:
        console.complain(f"{label!r} has no figures for {plural(images, 'image')}: {reason}")
    gaps = metric_gaps(store)
    for metric, reason, settings, images, _ in gaps:
        console.complain(
            f"metric {metric!r} has no figure of {plural(images, 'image')} under {plural(settings, 'setting')}: {reason}"
        )
    if failed or any(erred for *_, erred in gaps):
        number = store.cells - sum(store.cells_by_setting(failed=False).values())
        console.complain(f"{plural(number, 'cell')} failed; the same command with --retry runs them again")
    console.say(f"study: {folder}; scalekv report {folder} writes it as a page")


def ranking_table(results: Results, metric: str) -> Any:
    """Settings from best to worst; those of one rank cannot be told apart by these images. Only the metric that they are
    ranked by has its interval, and of the others as many as the terminal is wide for are shown: the report has them all."""
    others = [n for n in results.metrics if n != metric and any(n in row.figures for row in results.rows)]
    rows = [_ranked_row(results, one, others) for one in results.ranked(metric)]
    titles = ["rank", "setting", metric, *others, "held", "time"]
    while others and _width([titles, *rows]) > console.out.width:
        place = titles.index(others.pop())
        for cells in (titles, *rows):
            del cells[place]
    table = console.table(*titles, text=("setting",))
    table.columns[1].no_wrap = True
    for cells in rows:
        console.row(table, *cells)
    return table


def _ranked_row(results: Results, one: Ranked[int], others: Sequence[str]) -> list[str]:
    row = results.row(one.key)
    figures = [brief(results.summary(row, name).value) if name in row.figures else "" for name in others]
    held = "" if row.resident_bytes is None else format_bytes(row.resident_bytes)
    return [str(one.rank), row.label, show(one.figure), *figures, held, show_ratio(row)]


def _width(rows: Sequence[Sequence[str]]) -> int:
    """Characters of a table's longest line; columns stand two apart."""
    return sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True)) - 2


def show(figure: Interval) -> str:
    """A figure with half the width of its interval; infinity and not-a-number by their names.

    >>> show(Interval(value=1.0, low=0.5, high=1.5, images=4)), show(Interval(value=math.inf, low=1, high=math.inf, images=1))
    ('1.000 ± 0.500', 'identical')
    """
    spread = (figure.high - figure.low) / 2
    missing = f" ({figure.missing} missing)" if figure.missing else ""
    if not math.isfinite(figure.value) or not math.isfinite(spread):
        return brief(figure.value) + missing
    return f"{number(figure.value)} ± {number(spread)}{missing}"


def brief(value: float) -> str:
    """A figure alone.

    >>> brief(math.nan), brief(math.inf), brief(21.3456)
    ('no number', 'identical', '21.346')
    """
    return "no number" if math.isnan(value) else "identical" if math.isinf(value) else number(value)


def show_ratio(row: Row) -> str:
    """Seconds by those of the unmodified model in the same batch: the median."""
    ratios = row.seconds / row.unmodified_seconds
    return "" if np.isnan(ratios).all() else number(float(np.nanmedian(ratios)), 2)


def show_difference(apart: Interval) -> str:
    """A paired difference with its interval, or that the images do not tell the two apart.

    >>> show_difference(Interval(value=-1.5, low=-2.0, high=-1.0, images=9))
    '-1.500 (-2.000 to -1.000)'
    >>> show_difference(Interval(value=-0.5, low=-2.0, high=1.0, images=9))
    'not told apart'
    """
    if math.isnan(apart.value):
        return "no number"
    if not (apart.low > 0 or apart.high < 0):  # also where one image gives no interval
        return "not told apart"
    if math.isinf(apart.value):
        return "infinite" if apart.value > 0 else "-infinite"
    return f"{number(apart.value)} ({number(apart.low)} to {number(apart.high)})"


def tell_recommendation(folder: Path, memory: str, metric: str | None) -> None:
    """The best setting that fits, the runner-up, and the price of half the memory."""
    store = Store.open(located(folder, the_registry()))
    by, size = metric or store.question["metrics"][-1], read_bytes(memory)
    if by not in store.question["metrics"]:
        raise unknown_name("metric of this study", by, store.question["metrics"])
    for results in results_of(store, the_registry()):
        found = recommend(results, size, by)
        images = plural(store.question["batch"], "image")
        console.heading(f"{results.model}, {format_bytes(size)} for the cache of {images} at once, best {by}")
        table = console.table("", "setting", by, "to best", "peak", text=("", "setting"))
        for what, row in (("best", found.best), ("runner-up", found.second), ("half the memory", found.half)):
            if row is not None:
                price = "" if row is found.best else show_difference(results.apart(row, found.best, by))
                summary = show(results.summary(row, by))
                console.row(table, what, row.label, summary, price, format_bytes(needed(row)))
        console.out.print(table)
        console.say(f"peak: the most that the cache of a batch of {images} took at one moment")
        if found.half is None:
            console.say(f"nothing of this study fits into half of it, {format_bytes(size // 2)}")
