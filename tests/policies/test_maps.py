"""Patches of a map, and pooling over neighbours in the picture."""

from __future__ import annotations

import itertools

import pytest
import torch

from scalekv_core import ScaleSchedule
from scalekv_policies.maps import patch_centres, patch_grid, pool_average, pool_max

SCHEDULE = ScaleSchedule([(1, 1), (2, 3), (2, 3, 4), (2, 4, 7)])


@pytest.mark.parametrize("patches", [1, 4, 16, 64])
def test_patches_are_at_most_as_many_as_wanted_and_distinct(patches):
    """For every shape of map, centres lie inside it and are more than half as many as asked for, if it has as many."""
    for sizes in itertools.product((1, 2), (1, 3, 8, 20), (1, 2, 5, 13, 42)):
        centres = patch_centres(sizes, patches, torch.device("cpu"))
        tokens = sizes[0] * sizes[1] * sizes[2]
        assert len(set(centres.tolist())) == len(centres) <= min(patches, tokens)
        assert 0 <= int(centres.min()) <= int(centres.max()) < tokens
        assert 2 * len(centres) > min(patches, tokens)


def test_patches_follow_the_proportion_of_the_map():
    """A tall map has a tall grid."""
    assert (1, 8, 2) == patch_grid((1, 64, 16), 16)
    assert (1, 2, 8) == patch_grid((1, 16, 64), 16)
    assert (2, 2, 4) == patch_grid((8, 8, 16), 16)


@pytest.mark.parametrize(("pool", "of"), [(pool_average, torch.mean), (pool_max, torch.amax)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_neighbours_are_those_present_on_the_same_map_and_frame(pool, of, kernel, make_view):
    """Pooling equals loops: evicted tokens, other maps and other frames do not count."""
    view = make_view(SCHEDULE, 3, held=19, rows=1, heads=(0, 1))
    scores = torch.rand(1, 2, view.tokens)
    pooled = pool(scores, view, kernel)
    for head in range(2):
        places = [place_of(int(position)) for position in view.positions[0, head]]
        for j, (scale, frame, row, column) in enumerate(places):
            near = [
                i
                for i, (s, f, r, c) in enumerate(places)
                if (s, f) == (scale, frame) and max(abs(r - row), abs(c - column)) <= kernel // 2
            ]
            torch.testing.assert_close(of(scores[0, head, near], dim=0), pooled[0, head, j])


def place_of(position):
    scale = SCHEDULE.scale_of(position)
    index, (_, h, w) = position - SCHEDULE.history[scale], SCHEDULE.maps[scale]
    return scale, index // (h * w), index // w % h, index % w


def test_patches_turn_with_the_map():
    """The grid of a transposed map is the transposed grid, whichever side is longer."""
    for height, width, patches in itertools.product((3, 7, 20), (2, 10, 41), (4, 16, 30)):
        assert patch_grid((1, height, width), patches) == (1, *patch_grid((1, width, height), patches)[:0:-1])
