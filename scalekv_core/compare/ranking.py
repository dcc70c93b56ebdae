"""From cells to answers: means with paired bootstrap intervals, ranks, frontiers, and significant differences.

All settings of a model generate the same images, so that they are compared image by image: the same resamples of images
serve every setting, and an interval of a difference is one of paired differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pool = Callable[[Floats], Floats]
"""(..., images) -> (...,) the figure of many images."""
RESAMPLES = 2000
LEAST_RESAMPLES = 200
MOST_DRAWS = 1 << 22
"""Resamples x images that are in memory at once; with more than 2,000 images there are fewer resamples."""
LEVEL = 0.95
Key = TypeVar("Key")


@frozen(kw_only=True)
class Interval:
    """A figure over all images.

    Attributes:
        value: over the images as they are.
        low, high: the 95 % percentile interval over resamples of images; not a number for a single image.
        images: how many.
        missing: images of which there is no figure, or none that is a number; they are in no mean.
    """

    value: float
    low: float
    high: float
    images: int
    missing: int = 0


@frozen(eq=False)
class Resamples:
    """Which images each resample has, the same for every setting: (resamples, images) indices."""

    index: NDArray[np.int32]

    @classmethod
    def of(cls, images: int, *, number: int | None = None, seed: int = 0) -> Resamples:
        number = number or max(LEAST_RESAMPLES, min(RESAMPLES, MOST_DRAWS // images))
        return cls(np.random.default_rng(seed).integers(0, images, size=(number, images), dtype=np.int32))

    def pooled(self, values: Floats, pool: Pool) -> Floats:
        """(resamples,) the figure of each resample."""
        return pool(values[self.index])


def mean(values: Floats) -> Floats:
    """The pool of a metric that defines none."""
    return values.mean(axis=-1)


def interval(values: Floats, resamples: Resamples, *, pool: Pool = mean) -> Interval:
    """The figure of all images with its interval; images whose figure is NaN are left out and counted.

    Args:
        values: (images,) with nan where there is none.
        resamples: of as many images.

    >>> interval(np.array([1.0, 1.0, np.nan]), Resamples.of(3))
    Interval(value=1.0, low=1.0, high=1.0, images=2, missing=1)
    """
    there = ~np.isnan(values)
    known = values[there]
    missing = int((~there).sum())
    if not len(known):
        return Interval(value=np.nan, low=np.nan, high=np.nan, images=0, missing=missing)
    low, high = _ends(resamples if there.all() else Resamples.of(len(known)), lambda same: same.pooled(known, pool))
    return Interval(value=float(pool(known)), low=low, high=high, images=len(known), missing=missing)


def difference(a: Floats, b: Floats, resamples: Resamples, *, pool: Pool = mean) -> Interval:
    """By how much the figure of ``a`` exceeds that of ``b``, over the images that both have, resampled together.

    Its interval holds 0 where the images do not tell the two apart.

    >>> difference(np.array([2.0, 3.0]), np.array([1.0, 2.0]), Resamples.of(2))
    Interval(value=1.0, low=1.0, high=1.0, images=2, missing=0)
    """
    both = ~(np.isnan(a) | np.isnan(b))
    missing = int((~both).sum())
    if not both.any():
        return Interval(value=np.nan, low=np.nan, high=np.nan, images=0, missing=missing)
    same = resamples if both.all() else Resamples.of(int(both.sum()))
    low, high = _ends(same, lambda same: _less(same.pooled(a[both], pool), same.pooled(b[both], pool)))
    value = float(_less(pool(a[both]), pool(b[both])))
    return Interval(value=value, low=low, high=high, images=int(both.sum()), missing=missing)


def _less(a: Floats, b: Floats) -> Floats:
    """a - b; infinity less infinity is 0, since both are identical to the unmodified images."""
    with np.errstate(invalid="ignore"):
        apart: Floats = np.nan_to_num(np.subtract(a, b), nan=0.0, posinf=np.inf, neginf=-np.inf)
    return apart


def _ends(resamples: Resamples, figure: Callable[[Resamples], Floats]) -> tuple[float, float]:
    """The ends of the percentile interval; one image gives none."""
    if resamples.index.shape[1] < 2:
        return math.nan, math.nan
    pooled = figure(resamples)
    last = len(pooled) - 1
    low, high = round(last * (1 - LEVEL) / 2), round(last * (1 + LEVEL) / 2)
    ordered = np.partition(pooled, (low, high))
    return float(ordered[low]), float(ordered[high])


@frozen(kw_only=True)
class Ranked(Generic[Key]):
    """A setting and its rank.

    Attributes:
        key: which setting.
        rank: 1 for the best; settings that cannot be told from the best of their rank share it.
        figure: over all images.
        to_best: its figure less that of the best setting, image by image; it means something where the interval does not
            hold 0.
    """

    key: Key
    rank: int
    figure: Interval
    to_best: Interval


def ranking(
    values: Mapping[Key, Floats],
    *,
    higher_is_better: bool = True,
    pool: Pool = mean,
    resamples: Resamples | None = None,
) -> list[Ranked[Key]]:
    """Settings from best to worst. A new rank begins where the paired interval of the difference to the best of the
    rank before lies on one side of 0; settings without figures come last.

    >>> [r.rank for r in ranking({"a": np.array([3.0, 4.0]), "b": np.array([1.0, 2.0])})]
    [1, 2]
    """
    if not values:
        return []
    drawn = resamples or Resamples.of(len(next(iter(values.values()))))
    sign = 1 if higher_is_better else -1
    figures = {key: interval(v, drawn, pool=pool) for key, v in values.items()}
    order = sorted(
        values, key=lambda key: -np.inf if np.isnan(figures[key].value) else sign * figures[key].value, reverse=True
    )
    found: list[Ranked[Key]] = []
    best, leader, rank = order[0], order[0], 1
    for place, key in enumerate(order, start=1):
        to_best = difference(values[key], values[best], drawn, pool=pool)
        apart = to_best if leader == best else difference(values[key], values[leader], drawn, pool=pool)
        if key != leader and (np.isnan(apart.value) or (apart.high < 0 if higher_is_better else apart.low > 0)):
            leader, rank = key, place
        found.append(Ranked(key=key, rank=rank, figure=figures[key], to_best=to_best))
    return found


def frontier(points: Sequence[tuple[float, float]], *, higher_is_better: bool = True) -> list[bool]:
    """The points that no other point beats by being as cheap and as good, and better in one of the two.

    Args:
        points: (cost, figure) of each; where one is not a number the point is on no frontier.

    >>> frontier([(1, 5), (2, 4), (3, 9)])
    [True, False, True]
    """
    cost = np.array([c for c, _ in points], dtype=np.float64)
    good = np.array([g for _, g in points], dtype=np.float64) * (1 if higher_is_better else -1)
    as_good = (cost[None] <= cost[:, None]) & (good[None] >= good[:, None])
    better = (cost[None] < cost[:, None]) | (good[None] > good[:, None])
    beaten = (as_good & better).any(axis=1) if len(points) else np.zeros(0, dtype=bool)
    known: list[bool] = (~beaten & ~np.isnan(cost) & ~np.isnan(good)).tolist()
    return known
