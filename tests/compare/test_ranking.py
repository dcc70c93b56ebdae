"""Rankings are of paired differences: what the images do not tell apart shares a rank, and nothing that is not a number is averaged away."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekv_core.compare.pair_metrics import PSNR
from scalekv_core.compare.ranking import Resamples, difference, frontier, interval, ranking

rng = np.random.default_rng(0)


def test_paired_differences_tell_apart_what_means_do_not() -> None:
    """Images differ by 10, settings by 0.1: intervals of the means overlap, that of the difference does not hold 0."""
    hard = rng.normal(0, 10, 50)
    a, b = hard + 0.1 + rng.normal(0, 0.01, 50), hard
    drawn = Resamples.of(50)

    assert interval(a, drawn).low < interval(b, drawn).high
    assert difference(a, b, drawn).low > 0


def test_what_cannot_be_told_apart_shares_a_rank() -> None:
    """The third setting is noise around the second."""
    noise = rng.normal(0, 1, 40)
    values = {"best": noise + 5, "second": noise, "third": rng.permutation(noise)}

    assert {"best": 1, "second": 2, "third": 2} == {one.key: one.rank for one in ranking(values)}


def test_lower_can_be_better() -> None:
    """A divergence of 0.1 comes before one of 0.2, and each says how far it is from the best."""
    first, second = ranking({"b": np.full(5, 0.2), "a": np.full(5, 0.1)}, higher_is_better=False)

    assert (("a", 1), ("b", 2)) == ((first.key, first.rank), (second.key, second.rank))
    assert 0.0 == first.to_best.value
    assert 0.1 == pytest.approx(second.to_best.value)


def test_one_image_tells_nothing_apart() -> None:
    """It has a figure and no interval; all settings share the first rank."""
    first, second = ranking({"a": np.array([3.0]), "b": np.array([1.0])})

    assert (3.0, 1, 1) == (first.figure.value, first.rank, second.rank)
    assert math.isnan(first.figure.low)


def test_what_is_not_a_number_is_counted_and_comes_last() -> None:
    """It is in no mean, and never a 0."""
    some, none = np.array([1.0, math.nan, 3.0]), np.full(3, math.nan)
    ranked = ranking({"none": none, "some": some})

    assert ["some", "none"] == [one.key for one in ranked]
    assert (2.0, 2, 1) == (ranked[0].figure.value, ranked[0].figure.images, ranked[0].figure.missing)
    assert math.isnan(ranked[1].figure.value)
    assert 3 == ranked[1].figure.missing


def test_identical_images_have_infinite_psnr_and_no_difference() -> None:
    """Infinity less infinity is no difference; infinity against a number is infinite."""
    same, other = np.full(4, math.inf), np.array([20.0, 21.0, 22.0, 23.0])
    drawn, pool = Resamples.of(4), PSNR().pool

    assert math.inf == interval(same, drawn, pool=pool).value
    assert 0.0 == difference(same, same, drawn, pool=pool).value
    assert math.inf == difference(same, other, drawn, pool=pool).value


def test_psnr_is_pooled_by_mean_squared_error() -> None:
    """Not by the mean of decibels."""
    assert -10 * math.log10((0.1 + 0.001) / 2) == pytest.approx(float(PSNR().pool(np.array([10.0, 30.0]))))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_an_interval_holds_its_figure_range(values: list[float]) -> None:
    """Its ends lie between the least and the most image, and in order."""
    found = interval(np.array(values), Resamples.of(len(values), number=50))

    assert min(values) - 1e-6 <= found.low <= found.high <= max(values) + 1e-6


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_a_frontier_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    """By definition, one by one."""

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    assert [not any(beats(a, b) for a in points) for b in points] == frontier(points)


def test_no_number_is_on_no_frontier() -> None:
    """Neither as cost nor as figure."""
    assert [False, True] == frontier([(1.0, math.nan), (2.0, 1.0)])
