"""What a metric is checked for, on two generations that are made up: a study averages whatever it answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.errors import ScaleKVError, first_line
from scalekv_core.models.image_model import Generation
from scalekv_core.models.metric import Metric, Pair, PairMetric
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import GenerationCase
from scalekv_core.testing.common import NeverApplies, all_same, check_randomness, check_value, refused
from scalekv_core.testing.manners import quietly

Make = Callable[[], Metric]
SCHEDULE = ScaleSchedule.square(1, 2, 4)
CODES = 16
SIDE = 192
"""Pixels of a side: metrics of several resolutions need some."""


def pair_of(case: GenerationCase, metric: PairMetric) -> Pair:
    """Two generations of as many images as the case says, at least two; the second is near the first."""
    generator = torch.Generator().manual_seed(case.seed)
    rows = max(2, case.rows)

    def made(images: Tensor, logits: list[Tensor], tokens: tuple[Tensor, ...]) -> Generation:
        return Generation(images=images, tokens=tokens, choices=tokens, logits=tuple(logits))

    images = torch.rand(rows, 3, SIDE, SIDE, generator=generator)
    near = (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    logits = [torch.randn(rows, n, CODES, generator=generator) for n in SCHEDULE.tokens]
    others = [x + 0.1 * torch.randn(x.shape, generator=generator) for x in logits]
    tokens = tuple(torch.randint(CODES, (rows, n), generator=generator) for n in SCHEDULE.tokens)
    changed = tuple(torch.where(torch.rand(x.shape, generator=generator) < 0.2, (x + 1) % CODES, x) for x in tokens)
    return Pair(
        model=metric.models[0] if metric.models else "some-model",
        prompts=tuple(str(row % 10) for row in range(rows)),
        seeds=tuple(range(rows)),
        unmodified=made(images, logits, tokens),
        compressed=made(near, others, changed),
        forced=made(near, others, tokens),
    )


def one_of(pair: Pair, row: int) -> Pair:
    """The pair of one image alone."""

    def cut(made: Generation) -> Generation:
        rows = slice(row, row + 1)
        parts = {name: tuple(x[rows] for x in getattr(made, name)) for name in ("tokens", "choices", "logits")}
        return evolve(made, images=made.images[rows], **parts)

    return evolve(
        pair,
        prompts=pair.prompts[row : row + 1],
        seeds=pair.seeds[row : row + 1],
        unmodified=cut(pair.unmodified),
        compressed=cut(pair.compressed),
        forced=cut(pair.forced),
    )


def usable(make: Make) -> PairMetric:
    """The metric, if it has a figure for every image, what it needs is here, and it takes images that no model made."""
    metric = make()
    if not isinstance(metric, PairMetric):
        raise NeverApplies("it measures whole sets")
    try:
        metric.check_available()
        if metric.models:
            metric.measure(pair_of(GenerationCase(), metric))
    except ScaleKVError as error:
        raise NeverApplies(first_line(error)) from None
    return metric


def measured(metric: PairMetric, pair: Pair) -> Tensor:
    """Its figures, of the right form."""
    figures, rows = metric.measure(pair), len(pair.prompts)
    assert isinstance(figures, Tensor), (
        f"it returned {refused(figures)}; wanted one figure per image, of shape ({rows},)"
    )
    assert figures.shape == (rows,), f"it returned {refused(figures)}; wanted one figure per image, of shape ({rows},)"
    return figures


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class: its options are recorded with the study."""
    check_value(make)


def check_one_figure_per_image(make: Make, case: GenerationCase) -> None:
    """(B,) numbers, and (B, K) by scale or none: studies resample images."""
    metric = usable(make)
    pair = pair_of(case, metric)
    assert measured(metric, pair).is_floating_point(), "its figures are no floating-point numbers"
    scales = metric.by_scale(pair)
    wanted = (len(pair.prompts), len(SCHEDULE))
    assert scales is None or scales.shape == wanted, f"by scale it returned {refused(scales)}; wanted {wanted}"


def check_images_are_apart(make: Make, case: GenerationCase) -> None:
    """The figure of an image is what it is alone, up to rounding: a mean over a batch would be counted once for each."""
    metric = usable(make)
    pair = pair_of(case, metric)
    together = measured(metric, pair).double()
    alone = torch.cat([measured(metric, one_of(pair, row)) for row in range(len(pair.prompts))]).double()
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-6, equal_nan=True), (
        f"figures of a batch are {together.tolist()}; of its images alone {alone.tolist()}"
    )


def check_repeats_itself(make: Make, case: GenerationCase) -> None:
    """The same images have the same figure, whatever global generators stand at; they are looked at, not written to."""
    metric = usable(make)
    pair = pair_of(case, metric)
    before = [x.clone() for x in tensors(pair)]
    check_randomness(lambda: [measured(metric, pair)])
    assert all_same(before, tensors(pair)), "it writes to the generations that it measures"


def check_pooling_is_of_images(make: Make, case: GenerationCase) -> None:
    """Of one image the pool is its figure; of a figure that is not a number it is none; resamples are pooled together."""
    metric = usable(make)
    values = measured(metric, pair_of(case, metric)).double().numpy()
    for value in values:
        pooled = float(metric.pool(np.array([value])))
        assert math.isclose(pooled, value, rel_tol=1e-6, abs_tol=1e-12), f"the pool of {value} alone is {pooled}"
    hidden = float(metric.pool(np.array([*values, math.nan])))
    assert math.isnan(hidden), f"with a figure that is not a number the pool is {hidden}"
    several = metric.pool(np.stack([values, values[::-1]]))
    assert np.shape(several) == (2,), f"the pool of two resamples is of shape {np.shape(several)}; wanted (2,)"


def check_is_quiet(make: Make) -> None:
    """It prints nothing and leaves the settings of torch and the process alone."""
    metric = usable(make)
    quietly(lambda: [measured(metric, pair_of(GenerationCase(), metric))])


def tensors(pair: Pair) -> list[Tensor]:
    """All tensors of the three generations."""
    parts = (pair.unmodified, pair.compressed, pair.forced)
    return [x for made in parts for x in (made.images, *made.tokens, *made.choices, *(made.logits or ()))]
