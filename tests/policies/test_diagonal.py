"""Diagonal: the same places of every map are kept."""

from itertools import pairwise

import torch

from scalekv_core import ScaleSchedule
from scalekv_policies.diagonal import Diagonal, turns_under_places

SCHEDULE = ScaleSchedule.square(1, 2, 4, 8)


def test_every_map_keeps_about_as_many_tokens(make_view):
    """A map that has fewer places than asked for is kept whole."""
    kept = Diagonal().select(make_view(SCHEDULE, 3), 1 + 4 + 8 + 8)[0, 0]
    counts = [
        int(((start <= kept) & (kept < stop)).sum()) for start, stop in pairwise([*SCHEDULE.history, SCHEDULE.total])
    ]
    assert [1, 4] == counts[:2]
    assert abs(counts[2] - counts[3]) <= 2


def test_kept_tokens_lie_one_below_the_other(make_view):
    """The places kept of a map are also kept of the finer map, up to the rounding of its grid."""
    kept = Diagonal().select(make_view(SCHEDULE, 3), 1 + 4 + 8 + 8)[0, 0]
    coarse, fine = kept[(5 <= kept) & (kept < 21)] - 5, kept[kept >= 21] - 21
    below = (fine // 8 // 2) * 4 + fine % 8 // 2
    assert set(below.tolist()) == set(coarse.tolist())


def test_more_room_keeps_what_less_room_keeps(make_view):
    """A larger keep is a superset of a smaller one."""
    view = make_view(SCHEDULE, 3, held=9)
    sets = [set(Diagonal().select(view, keep)[1, 0].tolist()) for keep in range(1, view.tokens)]
    assert all(smaller < larger for smaller, larger in pairwise(sets))


def test_every_token_of_a_published_map_has_its_own_turn():
    """A map of 64 x 64, and that of a video."""
    for sizes in ((1, 64, 64), (3, 5, 7)):
        turns = turns_under_places(sizes, torch.device("cpu"))
        assert len(turns) == len(turns.unique())
