"""StreamingLLM: sinks and recent tokens."""

from scalekv_core import ScaleSchedule
from scalekv_policies.streaming import SinksAndRecent

SCHEDULE = ScaleSchedule.square(1, 2, 4)


def test_the_first_and_the_last_tokens_stay(make_view):
    """The selector keeps five sinks and the end of the map."""
    assert [0, 1, 2, 3, 4, 16, 17, 18, 19, 20] == SinksAndRecent().select(make_view(SCHEDULE, 2), 10)[0, 0].tolist()


def test_sinks_take_half_of_a_small_capacity(make_view):
    """One more token of capacity keeps the same tokens and adds a sink or a recent token in turn."""
    view = make_view(SCHEDULE, 2)
    kept = [SinksAndRecent().select(view, keep)[0, 0].tolist() for keep in (1, 2, 3, 4)]
    assert [[0], [0, 20], [0, 1, 20], [0, 1, 19, 20]] == kept
