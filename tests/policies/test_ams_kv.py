"""First scales and latest scales."""

from itertools import pairwise

from scalekv_core import ScaleSchedule
from scalekv_policies.ams_kv import CondensedAndLocal

SCHEDULE = ScaleSchedule.square(1, 2, 3, 4)


def test_whole_maps_stay_first_ones_first_then_backwards(make_view):
    """Two condensed maps, the latest map, then part of the one before, evenly spaced."""
    view = make_view(SCHEDULE, 3)
    kept = CondensedAndLocal().select(view, 5 + 16 + 3)[0, 0].tolist()
    assert [0, 1, 2, 3, 4] == kept[:5]
    assert list(range(14, 30)) == kept[-16:]
    assert 5 == kept[5]


def test_more_room_keeps_what_less_room_keeps(make_view):
    """A larger keep is a superset of a smaller one."""
    view = make_view(SCHEDULE, 3, held=9)
    sets = [set(CondensedAndLocal().select(view, keep)[1, 0].tolist()) for keep in range(1, view.tokens)]
    assert all(smaller < larger for smaller, larger in pairwise(sets))


def test_less_room_than_the_condensed_maps_goes_to_the_first(make_view):
    """The first map before the second."""
    assert [0] == CondensedAndLocal().select(make_view(SCHEDULE, 3), 1)[0, 0].tolist()
    assert [0, 1] == CondensedAndLocal().select(make_view(SCHEDULE, 3), 2)[0, 0].tolist()
