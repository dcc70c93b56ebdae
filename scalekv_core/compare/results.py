"""The results of a study so far, read from its store: arrays by setting and image, and a summary of each setting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen

from scalekv_core.compare.cells import WHOLE
from scalekv_core.compare.picture_files import IMAGES
from scalekv_core.compare.ranking import Floats, Interval, Pool, Ranked, Resamples, difference, interval, mean, ranking
from scalekv_core.compare.store import UNMODIFIED, Store
from scalekv_core.errors import UnknownName
from scalekv_core.models.metric import Metric, PairMetric
from scalekv_core.plugins.registry import Registry


@frozen(eq=False, kw_only=True)
class Row:
    """All results of one setting.

    Attributes:
        id: of the setting in the store.
        label: without the model.
        policy, budget, codec, options: as they were asked for.
        planned_bytes, unmodified_bytes: of a batch.
        resident_bytes, peak_bytes: the most over all batches; None if nothing was finished.
        refused: why it was not measured; None if it was.
        failed: {reason: images}.
        reasons: {image: why it failed}, images as in the arrays.
        notes: {metric: {image: why it is not a number}}.
        figures: {metric: (images,) array, nan where there is none}, in the order of :attr:`Results.images`.
        sets: {metric: figure of all images}.
        seconds, unmodified_seconds, selection: (images,) arrays.
        files: (images,) pictures, or None.
        scales: {metric: mean of each scale over the images of which it is a number}.
        study: where it was measured, if several studies are shown together.
    """

    id: int
    label: str
    policy: str
    budget: str
    codec: str
    options: Mapping[str, str]
    planned_bytes: int | None
    unmodified_bytes: int | None
    resident_bytes: int | None = None
    peak_bytes: int | None = None
    refused: str | None = None
    failed: Mapping[str, int] = field(factory=dict)
    reasons: Mapping[int, str] = field(factory=dict)
    notes: Mapping[str, Mapping[int, str]] = field(factory=dict)
    figures: Mapping[str, Floats] = field(factory=dict)
    sets: Mapping[str, float] = field(factory=dict)
    seconds: Floats
    unmodified_seconds: Floats
    selection: Floats
    files: Sequence[Path | None]
    scales: Mapping[str, Sequence[float]] = field(factory=dict)
    study: str = ""

    @property
    def done(self) -> int:
        """The number of finished images, failed ones included."""
        return int((~np.isnan(self.seconds)).sum()) + sum(self.failed.values())

    @property
    def times_faster(self) -> Floats:
        """(images,) speed-up: seconds of the unmodified model divided by seconds."""
        return self.unmodified_seconds / self.seconds


@frozen(eq=False, kw_only=True)
class Results:
    """The results of one model.

    Attributes:
        model: its name.
        images: (prompt, seed) of every image, in the order of all arrays.
        rows: the settings, in the order in which they were asked for.
        baseline: pictures of the unmodified images.
        metrics: {name: metric}; None where its plugin is not installed here.
        batch: images that were generated at once.
    """

    model: str
    images: Sequence[tuple[str, int]]
    rows: Sequence[Row]
    baseline: Sequence[Path | None]
    metrics: Mapping[str, Metric | None]
    batch: int = 1

    @property
    def resamples(self) -> Resamples:
        """The results of these images only."""
        return Resamples.of(max(1, len(self.images)))

    def pool(self, metric: str) -> Pool:
        """How a metric pools the figures of images."""
        known = self.metrics[metric]
        return known.pool if isinstance(known, PairMetric) else mean

    def higher_is_better(self, metric: str) -> bool:
        known = self.metrics[metric]
        return True if known is None else known.higher_is_better

    def summary(self, row: Row, metric: str) -> Interval:
        """A figure of a setting over all images."""
        return interval(row.figures[metric], self.resamples, pool=self.pool(metric))

    def apart(self, row: Row, other: Row, metric: str) -> Interval:
        """By how much the figure of one setting exceeds that of another, image by image."""
        return difference(row.figures[metric], other.figures[metric], self.resamples, pool=self.pool(metric))

    def ranked(self, metric: str) -> list[Ranked[int]]:
        """Settings by id, from best to worst."""
        values = {row.id: row.figures[metric] for row in self.rows if metric in row.figures}
        return ranking(
            values, higher_is_better=self.higher_is_better(metric), pool=self.pool(metric), resamples=self.resamples
        )

    def row(self, setting: int) -> Row:
        return next(row for row in self.rows if row.id == setting)


def results_of(store: Store, registry: Registry) -> list[Results]:
    """The results of every model of a study, in the order of the question."""
    metrics = {name: _metric(name, registry) for name in store.question["metrics"]}
    return [_of_model(store, model, metrics) for model in store.question["models"]]


def _metric(name: str, registry: Registry) -> Metric | None:
    try:
        made: Metric = registry.make("metric", name)
    except UnknownName:  # the study was made with a plugin that is not here; its figures are read all the same
        return None
    return made


def _of_model(store: Store, model: str, metrics: Mapping[str, Metric | None]) -> Results:
    images = [(prompt, seed) for seed in store.question["seeds"] for prompt in store.question["prompts"][model]]
    place = {image: i for i, image in enumerate(images)}
    baseline: list[Path | None] = [None] * len(images)
    for image, file in store.pictures(UNMODIFIED, model).items():
        baseline[place[image]] = store.folder / IMAGES / file
    columns = "id, label, policy, budget, codec, options, planned_bytes, unmodified_bytes, refused"
    settings = store.rows(f"SELECT {columns} FROM setting WHERE model = ? ORDER BY id", (model,))
    rows = [_row(store, setting, place) for setting in settings]
    return Results(
        model=model, images=images, rows=rows, baseline=baseline, metrics=metrics, batch=store.question["batch"]
    )


def _row(store: Store, setting: Sequence[Any], place: Mapping[tuple[str, int], int]) -> Row:
    key, label, policy, budget, codec, options, planned, unmodified, refused = setting
    arrays = {name: np.full(len(place), np.nan) for name in ("seconds", "unmodified", "selection")}
    files: list[Path | None] = [None] * len(place)
    reasons: dict[int, str] = {}
    resident, peak = [], []
    cells = store.rows(
        "SELECT i.prompt, i.seed, c.seconds, c.unmodified_seconds, c.selection_share, c.resident_bytes, c.peak_bytes, c.file,"
        " c.failed FROM cell c JOIN image i ON i.id = c.image WHERE c.setting = ?",
        (key,),
    )
    for prompt, seed, seconds, before, share, held, most, file, reason in cells:
        i = place[prompt, seed]
        if reason is not None:
            reasons[i] = reason
            continue
        files[i] = None if file is None else store.folder / IMAGES / file
        for name, value in (("seconds", seconds), ("unmodified", before), ("selection", share)):
            arrays[name][i] = np.nan if value is None else value
        resident.append(held)
        peak.append(most)
    figures, notes = _figures(store, key, place)
    return Row(
        id=key,
        label=label,
        policy=policy,
        budget=budget,
        codec=codec,
        options=json.loads(options),
        planned_bytes=planned,
        unmodified_bytes=unmodified,
        resident_bytes=max((x for x in resident if x is not None), default=None),
        peak_bytes=max((x for x in peak if x is not None), default=None),
        refused=refused,
        failed=Counter(reasons.values()),
        reasons=reasons,
        figures=figures,
        notes=notes,
        sets=dict(store.rows("SELECT metric, value FROM set_figure WHERE setting = ?", (key,))),
        seconds=arrays["seconds"],
        unmodified_seconds=arrays["unmodified"],
        selection=arrays["selection"],
        files=files,
        scales=_scales(store, key),
    )


def _figures(
    store: Store, setting: int, place: Mapping[tuple[str, int], int]
) -> tuple[dict[str, Floats], dict[str, dict[int, str]]]:
    """The figures of whole images, and why some are not numbers."""
    found: dict[str, Floats] = {}
    notes: dict[str, dict[int, str]] = {}
    rows = store.rows(
        "SELECT f.metric, i.prompt, i.seed, f.value, f.note FROM figure f JOIN cell c ON c.id = f.cell JOIN image i"
        " ON i.id = c.image WHERE c.setting = ? AND f.scale = ?",
        (setting, WHOLE),
    )
    for metric, prompt, seed, value, note in rows:
        image = place[prompt, seed]
        found.setdefault(metric, np.full(len(place), np.nan))[image] = np.nan if value is None else value
        if value is None:
            notes.setdefault(metric, {})[image] = note or "not a number"
    return found, notes


def _scales(store: Store, setting: int) -> dict[str, list[float]]:
    means = [(metric, value) for metric, _, value, _ in store.scale_rows(setting)]
    rows = means or store.rows(
        "SELECT f.metric, AVG(f.value) FROM figure f JOIN cell c ON c.id = f.cell WHERE c.setting = ? AND f.scale >= 0"
        " GROUP BY f.metric, f.scale ORDER BY f.metric, f.scale",
        (setting,),
    )
    found: dict[str, list[float]] = {}
    for metric, value in rows:
        found.setdefault(metric, []).append(float("nan") if value is None else float(value))
    return found
