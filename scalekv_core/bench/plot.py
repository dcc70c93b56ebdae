"""How the cost grows with tokens: records of one kind of measurement with different maps, on one plot."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scalekv_core.bench.compare import refuse_different
from scalekv_core.bench.settings import parse_maps
from scalekv_core.errors import InputError, missing_extra


def tokens_of(record: Mapping[str, Any]) -> int:
    """Tokens of an image of the maps that were measured."""
    return parse_maps(record["settings"]["maps"].replace(" ", ",")).total


def growth(records: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, dict[str, float], dict[str, float]]]]:
    """{contender: (tokens, seconds, ratio to the unmodified cache) of each record that timed it}, fewest tokens first.

    Raises:
        InputError: there are fewer than two records, they were made under settings that differ in more than the maps, or
            two are of the same maps.
    """
    if len(records) < 2:
        raise InputError(f"how cost grows is seen in two records or more; got {len(records)}")
    ordered = sorted(records, key=tokens_of)
    for one, other in itertools.pairwise(ordered):
        refuse_different(one, other, but=("maps",))
        if one["settings"]["maps"] == other["settings"]["maps"]:
            raise InputError(f"two records are of the same maps: {one['settings']['maps']}")
    lines: dict[str, list[tuple[int, dict[str, float], dict[str, float]]]] = {}
    for record in ordered:
        for name, figures in record["contenders"].items():
            if figures["seconds"] and figures["ratio"]:
                lines.setdefault(name, []).append((tokens_of(record), figures["seconds"], figures["ratio"]))
    return lines


def figure_of_growth(records: Sequence[Mapping[str, Any]]) -> Any:
    """A matplotlib figure: seconds of an image, and how much faster than the unmodified cache, against its tokens.

    Raises:
        InputError: as :func:`growth`.
        MissingExtra: matplotlib is not installed.
    """
    lines = growth(records)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "plot", "scalekv bench --plot") from None
    figure = Figure(figsize=(9, 4), layout="constrained")
    seconds, faster = figure.subplots(1, 2)
    for number, (name, points) in enumerate(lines.items()):
        tokens, style = [n for n, _, _ in points], {"label": name, "color": f"C{number}"}
        _line(seconds, tokens, [spread for _, spread, _ in points], style)
        _line(faster, tokens, [_inverse(spread) for _, _, spread in points], style)
    for axes in (seconds, faster):
        axes.set(xscale="log", xlabel="tokens of an image")
        axes.set_xticks(measured := sorted(map(tokens_of, records)), [f"{n:,}" for n in measured], minor=False)
        axes.xaxis.minorticks_off()
    seconds.set(yscale="log", ylabel="seconds of an image")
    faster.set(ylabel="times as fast as unmodified")
    seconds.legend()
    settings = records[0]["settings"]
    figure.suptitle(f"{settings['measured']}, {settings['rows']} rows, {settings['dtype']}, {settings['device']}")
    return figure


def _line(axes: Any, tokens: Sequence[int], spreads: Sequence[Mapping[str, float]], style: Mapping[str, str]) -> None:
    """Medians, with the least and the most as bars."""
    median, least, most = (np.array([spread[key] for spread in spreads]) for key in ("median", "least", "most"))
    axes.errorbar(tokens, median, yerr=(median - least, most - median), marker="o", markersize=3, capsize=2, **style)


def _inverse(ratio: Mapping[str, float]) -> dict[str, float]:
    return {"median": 1 / ratio["median"], "least": 1 / ratio["most"], "most": 1 / ratio["least"]}
