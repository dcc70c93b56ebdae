"""What stands on the page of a study, as plain values: texts, tables, plot data, thumbnails. The template only places them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image

from scalekv_core.compare.leaderboard import Submission, merged
from scalekv_core.compare.ranking import Interval, frontier
from scalekv_core.compare.results import Results, Row, results_of
from scalekv_core.compare.store import Store
from scalekv_core.plugins.registry import Registry
from scalekv_core.shapes.geometry import format_bytes

WORST = 12
"""Images on the contact sheet: those that the settings shown lose most on."""
SHOWN = 8
"""Settings on the contact sheet, from the frontier."""
THUMBNAIL = 192
"""Pixels of a side at most."""
AMPLIFY = 4
"""By how much difference maps are amplified."""


@frozen(eq=False, kw_only=True)
class Page:
    """The whole page.

    Attributes:
        title, command: of the study.
        asked, environment: (name, text) of what was asked and what it ran on.
        models: one part for each.
        data: the same for the plots, as JSON can hold it.
    """

    title: str
    command: str
    asked: Sequence[tuple[str, str]]
    environment: Sequence[tuple[str, str]]
    models: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]


def page_of(store: Store, registry: Registry) -> Page:
    """The page of a study as far as it is."""
    found = results_of(store, registry)
    metric = store.question["metrics"][-1]
    parts = [part_of(results, metric) for results in found]
    return Page(
        title=f"scalekv study: {', '.join(store.question['models'])}",
        command=store.command,
        asked=_asked(store.question),
        environment=_environment(store.environment),
        models=parts,
        data={
            "models": [part["data"] for part in parts],
            "metrics": [_metric(found[0], n) for n in store.question["metrics"]],
        },
    )


def leaderboard_page(found: Sequence[Submission], registry: Registry, *, protocol: str = "") -> Page:
    """The page of several studies of one protocol, ranked together."""
    question = found[0].store.question
    together = merged(found, registry)
    parts = [part_of(results, question["metrics"][-1]) for results in together]
    hidden = {"policies", "budgets", "codecs", "vary"}
    asked = _asked({name: ([] if name in hidden else value) for name, value in question.items()} | {"vary": {}})
    return Page(
        title=f"scalekv leaderboard: {', '.join(question['models'])}",
        command="",
        asked=[row for row in asked if row[1]] + ([("protocol", protocol)] if protocol else []),
        environment=[(f"{one.name}: {what}", text) for one in found for what, text in one.provenance if text],
        models=parts,
        data={
            "models": [part["data"] for part in parts],
            "metrics": [_metric(together[0], n) for n in question["metrics"]],
        },
    )


def _asked(question: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("policies", ", ".join(question["policies"])), ("budgets", ", ".join(question["budgets"]))]
    if question["codecs"]:
        rows.append(("codecs", ", ".join(question["codecs"])))
    rows += [(f"varied {name}", ", ".join(values)) for name, values in question["vary"].items()]
    rows += [(f"prompts of {model}", str(len(prompts))) for model, prompts in question["prompts"].items()]
    rows.append(("seeds", ", ".join(map(str, question["seeds"]))))
    rows += [(name, str(value)) for name, value in question["sampling"].items()]
    rows += [(name, str(question[name])) for name in ("aspect", "size", "dtype") if question[name]]
    return [*rows, ("images at once", str(question["batch"])), ("metrics", ", ".join(question["metrics"]))]


def _environment(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(name, version) for name, version in known["versions"].items()]
    rows += [("python", known["python"]), ("device", known["device"])]
    return rows + [(f"weights of {model}", short or "not hashed") for model, short in known["weights"].items()]


def _metric(results: Results, name: str) -> dict[str, Any]:
    known = results.metrics[name]
    return {"name": name, "unit": known.unit if known else "", "higher": results.higher_is_better(name)}


def part_of(results: Results, metric: str) -> dict[str, Any]:
    """The part of one model: table, plots, images, and what is missing."""
    measured = [row for row in results.rows if row.done > sum(row.failed.values())]
    ranks = {one.key: one for one in results.ranked(metric)} if measured else {}
    metrics = [name for name in results.metrics if any(name in row.figures for row in measured)]
    summaries = {
        row.id: {name: results.summary(row, name) for name in metrics if name in row.figures} for row in measured
    }
    points = [
        (row.resident_bytes or math.nan, summaries[row.id][metric].value if metric in summaries[row.id] else math.nan)
        for row in measured
    ]
    best = frontier(points, higher_is_better=results.higher_is_better(metric))
    rows = [
        _table_row(row, summaries[row.id], ranks.get(row.id), on_frontier)
        for row, on_frontier in zip(measured, best, strict=True)
    ]
    rows.sort(key=lambda row: (row["rank"] is None, row["rank"] or 0))
    return {
        "model": results.model,
        "images": len(results.images),
        "metric": metric,
        "metrics": metrics,
        "rows": rows,
        "refused": [(row.label, row.refused) for row in results.rows if row.refused],
        "failed": [(row.label, reason, n) for row in results.rows for reason, n in row.failed.items()],
        "sheet": _sheet(results, measured, best, metric),
        "data": {"model": results.model, "settings": [_plot_data(row, summaries[row.id]) for row in measured]},
    }


def _table_row(row: Row, summary: Mapping[str, Interval], rank: Any, on_frontier: bool) -> dict[str, Any]:
    ratio = _median(row.seconds / row.unmodified_seconds)
    return {
        "label": row.label,
        "study": row.study,
        "policy": row.policy,
        "rank": None if rank is None else rank.rank,
        "frontier": on_frontier,
        "figures": {name: figure_text(figure) for name, figure in summary.items()},
        "intervals": {name: interval_text(figure) for name, figure in summary.items()},
        "values": {name: plain(figure.value) for name, figure in summary.items()},
        "bytes": row.resident_bytes,
        "held": "" if row.resident_bytes is None else format_bytes(row.resident_bytes),
        "peak": "" if row.peak_bytes is None else format_bytes(row.peak_bytes),
        "less": ""
        if not row.resident_bytes or not row.unmodified_bytes
        else f"{row.unmodified_bytes / row.resident_bytes:.1f}x",
        "ratio": ratio,
        "time": "" if ratio is None else f"{ratio:.2f}",
        "missing": sum(row.failed.values()),
    }


def _plot_data(row: Row, summary: Mapping[str, Interval]) -> dict[str, Any]:
    return {
        "label": row.label,
        "policy": row.policy,
        "budget": row.budget,
        "codec": row.codec,
        "options": dict(row.options),
        "bytes": row.resident_bytes,
        "ratio": _median(row.seconds / row.unmodified_seconds),
        "figures": {name: [plain(f.value), plain(f.low), plain(f.high)] for name, f in summary.items()},
        "scales": {name: [plain(value) for value in row.scales.get(name, ())] for name in summary},
    }


def figure_text(figure: Interval) -> str:
    """A figure; what is not a number and what is infinite by name."""
    if math.isnan(figure.value):
        return "no number"
    return "identical" if math.isinf(figure.value) else _short(figure.value)


def interval_text(figure: Interval) -> str:
    """The ends of its interval, and how many images are missing."""
    missing = f"{figure.missing} missing" if figure.missing else ""
    if math.isnan(figure.value) or figure.low == figure.high:
        return missing
    return ", ".join(filter(None, [f"{_short(figure.low)} to {_short(figure.high)}", missing]))


def _short(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return "0" if value == 0 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.4g}"


def plain(value: float | None) -> float | None:
    """A number that JSON can hold; null for infinity and what is not a number."""
    return value if value is not None and math.isfinite(value) else None


def _median(values: NDArray[np.float64]) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmedian(values))


def _sheet(results: Results, measured: Sequence[Row], best: Sequence[bool], metric: str) -> dict[str, Any]:
    """Thumbnails of the images on which the settings shown are worst, beside the unmodified ones, with difference maps."""
    shown = [row for row, on in zip(measured, best, strict=True) if on and metric in row.figures]
    shown = sorted(shown, key=lambda row: -(row.resident_bytes or 0))[:SHOWN]
    if not shown:
        return {"settings": [], "images": []}
    sign = 1 if results.higher_is_better(metric) else -1
    figures = np.stack([row.figures[metric] for row in shown]) * sign
    worst = np.argsort(
        np.nan_to_num(np.where(np.isinf(figures), np.nan, figures), nan=np.inf).mean(axis=0), kind="stable"
    )
    images = [i for i in worst.tolist() if results.baseline[i]][:WORST]
    return {
        "settings": [row.label for row in shown],
        "images": [_sheet_row(results, shown, i, metric) for i in images],
    }


def _sheet_row(results: Results, shown: Sequence[Row], i: int, metric: str) -> dict[str, Any]:
    prompt, seed = results.images[i]
    original = _open(results.baseline[i])
    cells = []
    for row in shown:
        picture = _open(row.files[i])
        figure = float(row.figures[metric][i])
        cells.append(
            {
                "image": data_uri(picture),
                "difference": None if picture is None or original is None else data_uri(_difference(picture, original)),
                "figure": "identical" if math.isinf(figure) else "no number" if math.isnan(figure) else _short(figure),
            }
        )
    return {"prompt": prompt, "seed": seed, "unmodified": data_uri(original), "cells": cells}


def _open(file: Path | None) -> Image.Image | None:
    return None if file is None or not file.is_file() else Image.open(file).convert("RGB")


def _difference(picture: Image.Image, original: Image.Image) -> Image.Image:
    apart = np.abs(np.asarray(picture, dtype=np.int16) - np.asarray(original, dtype=np.int16)) * AMPLIFY
    return Image.fromarray(apart.clip(0, 255).astype(np.uint8))


def data_uri(picture: Image.Image | None) -> str | None:
    """A thumbnail inside of the page."""
    if picture is None:
        return None
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
