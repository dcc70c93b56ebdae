"""ScaleSchedule: exact token counts for every shape of map, and nothing that is not a map."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekv_core import InputError, ScaleSchedule

INFINITY_1M = ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
maps = st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=8)


def test_the_published_1m_schedule() -> None:
    """10,521 tokens, of which 6,425 enter the last scale, which alone is 38.9 %."""
    assert 10_521 == INFINITY_1M.total
    assert 6_425 == INFINITY_1M.last_history
    assert 4_096 == INFINITY_1M.tokens[-1]
    assert 0.389 == round(INFINITY_1M.tokens[-1] / INFINITY_1M.total, 3)


def test_the_published_var_schedule() -> None:
    """680 tokens at 256 pixels, of which 424 enter the last scale."""
    var = ScaleSchedule.square(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)

    assert (680, 424) == (var.total, var.last_history)


@given(maps)
def test_counts_add_up(sizes: list[tuple[int, int, int]]) -> None:
    """tokens, history, seen and keepable say the same thing in four ways."""
    schedule = ScaleSchedule(sizes)
    tokens = [t * h * w for t, h, w in sizes]

    assert tuple(tokens) == schedule.tokens
    assert tuple(accumulate(tokens)) == schedule.seen
    assert tuple(sum(tokens[:k]) for k in range(len(tokens))) == schedule.history
    assert (*schedule.seen[:-1], 0) == schedule.keepable()
    assert (sum(tokens), sum(tokens[:-1]), len(tokens)) == (schedule.total, schedule.last_history, len(schedule))


@given(maps)
def test_every_position_belongs_to_its_scale(sizes: list[tuple[int, int, int]]) -> None:
    """scale_of agrees with writing the scales out, and refuses what is outside."""
    schedule = ScaleSchedule(sizes)
    written = [k for k, n in enumerate(schedule.tokens) for _ in range(n)]

    assert written == [schedule.scale_of(position) for position in range(schedule.total)]
    for outside in (-1, schedule.total):
        with pytest.raises(InputError, match=f"position {outside} is outside"):
            schedule.scale_of(outside)


def test_a_flat_map_is_one_frame() -> None:
    """(h, w) and (1, h, w) are the same map, and a schedule is a value."""
    flat, framed = ScaleSchedule([(1, 1), (2, 3)]), ScaleSchedule(((1, 1, 1), (1, 2, 3)))

    assert framed == flat
    assert hash(framed) == hash(flat)
    assert [(1, 1, 1), (1, 2, 3)] == list(flat)
    assert "1x1 2x3" == str(flat)
    assert "2x2x3" == str(ScaleSchedule([(2, 2, 3)]))


@pytest.mark.parametrize(
    "sizes",
    [[], [()], [(1,)], [(1, 2, 3, 4)], [(0, 1)], [(1, -2)], [(1, 1), (2, 0)], [(1.5, 2)], ["12"], [(None, 1)], [3], 7],
    ids=str,
)
def test_what_is_no_schedule_is_refused(sizes: object) -> None:
    """Sizes are whole numbers of at least 1, two or three of them; nothing is rounded and no text is taken apart."""
    with pytest.raises(InputError):
        ScaleSchedule(sizes)  # type: ignore[arg-type]


def test_a_refused_map_is_quoted() -> None:
    """The message shows the map that is wrong."""
    with pytest.raises(InputError, match=r"\(h, w\) or \(t, h, w\) with sizes of at least 1; got \(4, 0\)"):
        ScaleSchedule([(1, 1), (4, 0)])
