"""From cells to answers: means with paired bootstrap intervals, ranks, frontiers, and which differences mean something.

All settings of a model generate the same images, so that they are compared image by image: the same resamples of images
serve every setting, and an interval of a difference is one of paired differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pool = Callable[[Floats], Floats]
"""(..., images) -> (...,) the figure of many images."""
RESAMPLES = 2000
LEVEL = 0.95
Key = TypeVar("Key")


@frozen(kw_only=True)
class Interval:
    """A figure over all images.

    Attributes:
        value: over the images as they are.
        low, high: the 95 % percentile interval over resamples of images.
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

    index: NDArray[np.int64]

    @classmethod
    def of(cls, images: int, *, number: int = RESAMPLES, seed: int = 0) -> Resamples:
        return cls(np.random.default_rng(seed).integers(0, images, size=(number, images)))

    def pooled(self, values: Floats, pool: Pool) -> Floats:
        """(resamples,) the figure of each resample."""
        return pool(values[self.index])


def mean(values: Floats) -> Floats:
    """The pool of a metric that does not say otherwise."""
    return values.mean(axis=-1)


def interval(values: Floats, resamples: Resamples, *, pool: Pool = mean) -> Interval:
    """The figure of all images with its interval; images whose figure is not a number are counted and left out.

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
    drawn = (resamples if there.all() else Resamples.of(len(known))).pooled(known, pool)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Interval(value=float(pool(known)), low=float(low), high=float(high), images=len(known), missing=missing)


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
    with np.errstate(invalid="ignore"):  # infinity less infinity: both are identical to the unmodified images
        drawn = np.nan_to_num(
            same.pooled(a[both], pool) - same.pooled(b[both], pool), nan=0.0, posinf=np.inf, neginf=-np.inf
        )
        value = float(np.nan_to_num(pool(a[both]) - pool(b[both]), nan=0.0, posinf=np.inf, neginf=-np.inf))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Interval(value=value, low=float(low), high=float(high), images=int(both.sum()), missing=missing)


@frozen(kw_only=True)
class Ranked(Generic[Key]):
    """A setting and its place.

    Attributes:
        key: which setting.
        rank: 1 for the best; settings that cannot be told from the best of their rank share it.
        figure: over all images.
        behind: by how much it is worse than the best of the rank before; None in rank 1.
    """

    key: Key
    rank: int
    figure: Interval
    behind: Interval | None


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
    leader, rank, behind = order[0], 1, None
    for place, key in enumerate(order, start=1):
        apart = difference(values[leader], values[key], drawn, pool=pool)
        if key != leader and (np.isnan(apart.value) or (apart.low > 0 if higher_is_better else apart.high < 0)):
            leader, rank, behind = key, place, apart
        found.append(Ranked(key=key, rank=rank, figure=figures[key], behind=behind))
    return found


def frontier(points: Sequence[tuple[float, float]], *, higher_is_better: bool = True) -> list[bool]:
    """Which points no other beats: none costs as little and is as good, one of the two strictly.

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
