"""The part of a page that shows one model: its settings, ranks, frontier, images, and what is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from scalekv_core.compare.page.commands import setting_command
from scalekv_core.compare.page.sheet import sheet_of
from scalekv_core.compare.page.texts import figure_text, interval_text, median, plain, short
from scalekv_core.compare.ranking import Interval, Ranked, difference, frontier
from scalekv_core.compare.results import Results, Row
from scalekv_core.shapes.geometry import format_bytes

PAIRED = 8
"""Settings that the table of paired differences has at most."""
MOST_CELLS = 50_000
"""Cells up to which the page lists each one; for larger studies the export has them."""

Ranks = Mapping[str, Mapping[int, Ranked[int]]]


def part_of(results: Results, metric: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """The part of one model, by the metric that ranks."""
    measured = [row for row in results.rows if row.done > sum(row.failed.values())]
    metrics = [name for name in results.metrics if any(name in row.figures for row in measured)]
    metric = metric if metric in metrics else (metrics or [metric])[-1]
    ranks: Ranks = {name: {one.key: one for one in results.ranked(name)} for name in metrics}
    place = {key: number for number, key in enumerate(ranks.get(metric, {}))}
    measured.sort(key=lambda row: place.get(row.id, len(place)))  # what has no figure comes last
    best = _on_frontier(results, measured, ranks, metric)
    return {
        "model": results.model,
        "images": len(results.images),
        "metric": metric,
        "settings": len(measured),
        "refused": [(row.label, row.refused) for row in results.rows if row.refused],
        "failed": [(row.label, reason, n) for row in results.rows for reason, n in row.failed.items()],
        "notes": _notes(results.rows),
        "unfinished": sum(len(results.images) - row.done for row in results.rows if not row.refused),
        "pairs": _pairs(results, measured[:PAIRED], ranks, metric),
        "sheet": sheet_of(results, [row for row, on in zip(measured, best, strict=True) if on], metric, question),
        "data": {
            "model": results.model,
            "metric": metric,
            "metrics": [_metric(results, name) for name in metrics],
            "settings": [_setting(row, ranks, results.model, question) for row in measured],
            "images": [list(image) for image in results.images],
            "cells": _cells(measured, metrics),
        },
    }


def _on_frontier(results: Results, rows: Sequence[Row], ranks: Ranks, metric: str) -> list[bool]:
    figures = [ranks[metric][row.id].figure.value if row.id in ranks.get(metric, {}) else math.nan for row in rows]
    points = [(row.resident_bytes or math.nan, figure) for row, figure in zip(rows, figures, strict=True)]
    return frontier(points, higher_is_better=results.higher_is_better(metric)) if rows else []


def _metric(results: Results, name: str) -> dict[str, Any]:
    known = results.metrics[name]
    return {"name": name, "unit": known.unit if known else "", "higher": results.higher_is_better(name)}


def _setting(row: Row, ranks: Ranks, model: str, question: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: found[row.id] for name, found in ranks.items() if row.id in found}
    return {
        "label": row.label,
        "study": row.study,
        "policy": row.policy,
        "budget": row.budget,
        "codec": row.codec,
        "options": dict(row.options),
        "bytes": row.resident_bytes,
        "held": "" if row.resident_bytes is None else format_bytes(row.resident_bytes),
        "peak": row.peak_bytes,
        "peakText": "" if row.peak_bytes is None else format_bytes(row.peak_bytes),
        "smaller": plain(row.unmodified_bytes / row.resident_bytes)
        if row.resident_bytes and row.unmodified_bytes
        else None,
        "time": plain(median(row.seconds / row.unmodified_seconds)),
        "seconds": plain(median(row.seconds)),
        "selection": plain(median(row.selection)),
        "failed": sum(row.failed.values()),
        "figures": {name: [*_interval(one.figure), one.figure.missing] for name, one in own.items()},
        "ranks": {name: [one.rank, *_interval(one.to_best)] for name, one in own.items()},
        "scales": {name: [plain(value) for value in row.scales[name]] for name in row.scales if name in own},
        "sets": {name: plain(value) for name, value in row.sets.items()},
        "command": setting_command(question, model, row),
    }


def _interval(figure: Interval) -> list[Any]:
    return [plain(figure.value), plain(figure.low), plain(figure.high)]


def _cells(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, Any] | None:
    """Every image of every setting, by columns; None where they are too many for a page."""
    if sum(len(row.seconds) for row in rows) > MOST_CELLS:
        return None
    return {
        "figures": {name: [[plain(v) for v in row.figures[name]] if name in row.figures else [] for row in rows] for name in metrics},
        "seconds": [[plain(v) for v in row.seconds] for row in rows],
        "reasons": [{str(i): text for i, text in _reasons(row).items()} for row in rows],
    }  # fmt: skip


def _reasons(row: Row) -> dict[int, str]:
    found = {i: f"{name}: {note}" for name, notes in row.notes.items() for i, note in notes.items()}
    return {**found, **row.reasons}


def _notes(rows: Sequence[Row]) -> list[tuple[str, str, str, int]]:
    """(setting, metric, why, images) of every figure that is not a number."""
    return [
        (row.label, name, note, n)
        for row in rows
        for name, notes in row.notes.items()
        for note, n in Counter(notes.values()).items()
    ]


def _pairs(results: Results, rows: Sequence[Row], ranks: Ranks, metric: str) -> dict[str, Any]:
    """The paired difference of every two of the first settings: the row's figure less the column's."""
    rows = [row for row in rows if row.id in ranks.get(metric, {})]
    resamples, pool, higher = results.resamples, results.pool(metric), results.higher_is_better(metric)

    def cell(a: Row, b: Row) -> dict[str, str]:
        if a is b:
            return {"text": "", "interval": "", "kind": "self"}
        apart = difference(a.figures[metric], b.figures[metric], resamples, pool=pool)
        better = apart.low > 0 if higher else apart.high < 0
        worse = apart.high < 0 if higher else apart.low > 0
        text = figure_text(apart) if not math.isinf(apart.value) else short(apart.value)
        return {
            "text": f"+{text}" if apart.value > 0 else text,
            "interval": interval_text(apart),
            "kind": "better" if better else "worse" if worse else "same",
        }

    return {
        "labels": [row.label for row in rows],
        "rows": [[cell(a, b) for b in rows] for a in rows] if len(rows) > 1 and len(results.images) > 1 else [],
    }
