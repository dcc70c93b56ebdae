"""How the cost grows with tokens or with the batch: records of one kind of measurement that differ in one of them, on one
plot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from scalekv_core.bench.compare import refuse_different
from scalekv_core.bench.figures import TOO_SHORT
from scalekv_core.bench.settings import parse_maps
from scalekv_core.errors import InputError, missing_extra


def tokens_of(record: Mapping[str, Any]) -> int:
    """Tokens of an image of the maps that were measured."""
    return parse_maps(record["settings"]["maps"].replace(" ", ",")).total


def rows_of(record: Mapping[str, Any]) -> int:
    """Sequences in the batch that was measured."""
    return int(record["settings"]["rows"])


@frozen(kw_only=True)
class Axis:
    """The setting in which records differ.

    Attributes:
        setting: in which records differ.
        label: of the axis.
        drawn: what is timed.
        of: the number in a record.
    """

    setting: str
    label: str
    drawn: str
    of: Callable[[Mapping[str, Any]], int]


AXES = (
    Axis(setting="maps", label="tokens of an image", drawn="an image", of=tokens_of),
    Axis(setting="rows", label="rows of the batch", drawn="a batch", of=rows_of),
)


def axis_of(records: Sequence[Mapping[str, Any]]) -> Axis:
    """The one thing that the records differ in.

    Raises:
        InputError: there are fewer than two records, they differ in both or in neither, or two are of the same.
    """
    if len(records) < 2:
        raise InputError(f"how cost grows is seen in two records or more; got {len(records)}")
    found = [axis for axis in AXES if len({record["settings"][axis.setting] for record in records}) > 1]
    if len(found) > 1:
        raise InputError("these records differ in maps and in rows; a plot shows how cost grows with one of them")
    axis = found[0] if found else AXES[0]
    values = [record["settings"][axis.setting] for record in records]
    if twice := [value for value in values if values.count(value) > 1]:
        raise InputError(f"two records are of the same {axis.setting}: {twice[0]}")
    return axis


def growth(records: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, dict[str, float], dict[str, float]]]]:
    """{contender: (tokens or rows, seconds, ratio to the unmodified cache) of each record that timed it}, fewest first.

    Raises:
        InputError: as :func:`axis_of`, the records were made under settings that differ in more, or a contender took less
            time than the clock can measure.
    """
    axis = axis_of(records)
    ordered = sorted(records, key=axis.of)
    for one, other in itertools.pairwise(ordered):
        refuse_different(one, other, but=(axis.setting,))
    lines: dict[str, list[tuple[int, dict[str, float], dict[str, float]]]] = {}
    for record in ordered:
        for name, figures in record["contenders"].items():
            if figures["seconds"] and figures["ratio"]:
                if not figures["seconds"]["least"]:
                    raise InputError(
                        f"contender {name!r} {TOO_SHORT} in the record of {axis.setting} {record['settings'][axis.setting]}; "
                        "leave that record out"
                    )
                lines.setdefault(name, []).append((axis.of(record), figures["seconds"], figures["ratio"]))
    return lines


def figure_of_growth(records: Sequence[Mapping[str, Any]]) -> Any:
    """A matplotlib figure: seconds, and how much faster than the unmodified cache, against the tokens of an image or the rows
    of the batch, whichever the records differ in.

    Raises:
        InputError: as :func:`growth`.
        MissingExtra: matplotlib is not installed.
    """
    lines, axis = growth(records), axis_of(records)
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogFormatter
    except ImportError:
        raise missing_extra("matplotlib", "plot", "scalekv bench --plot") from None
    figure = Figure(figsize=(9, 4), layout="constrained")
    seconds, faster = figure.subplots(1, 2)
    for number, (name, points) in enumerate(lines.items()):
        sizes, style = [n for n, _, _ in points], {"label": name, "color": f"C{number}"}
        _line(seconds, sizes, [spread for _, spread, _ in points], style)
        _line(faster, sizes, [_inverse(spread) for _, _, spread in points], style)
    for axes in (seconds, faster):
        axes.set(xscale="log", xlabel=axis.label)
        axes.set_xticks(measured := sorted(map(axis.of, records)), [f"{n:,}" for n in measured], minor=False)
        axes.xaxis.minorticks_off()
    seconds.set(yscale="log", ylabel=f"seconds of {axis.drawn}")
    for ticks in (seconds.yaxis.set_major_formatter, seconds.yaxis.set_minor_formatter):
        ticks(LogFormatter(minor_thresholds=(1.5, 0.5)))  # numbers, not powers of ten
    faster.set(ylabel="times as fast as unmodified")
    seconds.legend()
    figure.suptitle(_title(records[0]["settings"], axis))
    return figure


def _title(settings: Mapping[str, Any], axis: Axis) -> str:
    """The settings that all records share."""
    same = {"maps": f"{settings['rows']} rows", "rows": f"last map {settings['maps'].split()[-1]}"}[axis.setting]
    return f"{settings['measured']}, {same}, {settings['dtype']}, {settings['device']}"


def _line(axes: Any, sizes: Sequence[int], spreads: Sequence[Mapping[str, float]], style: Mapping[str, str]) -> None:
    """Plots medians with bars from minimum to maximum."""
    median, least, most = (np.array([spread[key] for spread in spreads]) for key in ("median", "least", "most"))
    axes.errorbar(sizes, median, yerr=(median - least, most - median), marker="o", markersize=3, capsize=2, **style)


def _inverse(ratio: Mapping[str, float]) -> dict[str, float]:
    return {"median": 1 / ratio["median"], "least": 1 / ratio["most"], "most": 1 / ratio["least"]}
