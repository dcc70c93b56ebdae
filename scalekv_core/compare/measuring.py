"""The figures of a pair of generations, metric by metric. What a metric cannot give is NaN, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from scalekv_core.compare.cells import NOT_A_NUMBER, WHOLE, Figure, reason_of
from scalekv_core.compare.question import Question
from scalekv_core.errors import InputError, MissingExtra, ScaleKVError, first_line
from scalekv_core.models.metric import Pair, PairMetric
from scalekv_core.plugins.registry import Registry


def pair_metrics(question: Question, registry: Registry) -> dict[str, PairMetric]:
    """{name: metric} of the question's metrics that have a figure for every image.

    Raises:
        UnknownName, MissingExtra, InputError: a metric is not there, or a package or weights that it needs.
    """
    found = {}
    for name in question.metrics:
        metric = registry.make("metric", name)
        try:
            metric.check_available()
        except MissingExtra:
            raise
        except ScaleKVError as error:
            raise InputError(f"metric {name!r} cannot be used: {error}") from error
        if isinstance(metric, PairMetric):
            found[name] = metric
    return found


def figures_of(pair: Pair, metrics: Mapping[str, PairMetric]) -> list[list[Figure]]:
    """The figures of each image of a pair, of the whole image and by scale."""
    found: list[list[Figure]] = [[] for _ in pair.prompts]
    for name, metric in metrics.items():
        if metric.models and pair.model not in metric.models:
            continue
        try:
            measured = _measured(name, metric, pair)
        except Exception as error:  # of a plugin: it costs this figure, and not the others
            reason = first_line(error) if isinstance(error, InputError) else reason_of(error)
            measured = [[Figure(metric=name, scale=WHOLE, value=math.nan, note=reason)] for _ in found]
        for figures, new in zip(found, measured, strict=True):
            figures += new
    return found


def _measured(name: str, metric: PairMetric, pair: Pair) -> list[list[Figure]]:
    whole, scales = metric.both(pair)
    _check_shape(name, whole, len(pair.prompts))
    values = [[]] * len(pair.prompts) if scales is None else scales.tolist()
    return [
        [_whole(name, value, by_scale), *(Figure(metric=name, scale=k, value=v) for k, v in enumerate(by_scale))]
        for value, by_scale in zip(whole.tolist(), values, strict=True)
    ]


def _whole(name: str, value: float, by_scale: list[float]) -> Figure:
    first = next((k for k, v in enumerate(by_scale) if math.isnan(v)), None)
    note = None if first is None else f"{NOT_A_NUMBER}, first at scale {first}"
    return Figure(metric=name, scale=WHOLE, value=float(value), note=note)


def _check_shape(name: str, figures: torch.Tensor, images: int) -> None:
    if not isinstance(figures, torch.Tensor) or figures.shape != (images,):
        got = tuple(figures.shape) if isinstance(figures, torch.Tensor) else type(figures).__name__
        raise InputError(f"metric {name!r} must return one figure per image, of shape ({images},); got {got}")
