"""Aspect ratios, sizes and rotations equal the published ones."""

from __future__ import annotations

import pytest
import torch

from scalekv_adapters.infinity.rotation import rows_and_columns
from scalekv_adapters.infinity.templates import ASPECTS, PIXELS, Canvas, find_canvas
from scalekv_core.errors import InputError

PUBLISHED_NAMES = {  # height / width, as the published table has it
    "1.0": "1:1", "1.25": "4:5", "0.8": "5:4", "1.333": "3:4", "0.75": "4:3", "1.5": "2:3", "0.666": "3:2", "1.75": "4:7",
    "0.571": "7:4", "2.0": "1:2", "0.5": "2:1", "2.5": "2:5", "0.4": "5:2", "3.0": "1:3", "0.333": "3:1",
}  # fmt: skip


def test_all_canvases_are_the_published_ones(manifest):
    """Fifteen aspect ratios in four sizes have the published maps, token counts and image sizes."""
    table = manifest("dynamic_resolution")["table"]
    assert set(PUBLISHED_NAMES) == set(table)
    assert set(PUBLISHED_NAMES.values()) == set(ASPECTS)
    for key, sizes in table.items():
        assert set(PIXELS) == set(sizes)
        for pixels, want in sizes.items():
            canvas = Canvas(PUBLISHED_NAMES[key], pixels)
            assert [tuple(scale[1:]) for scale in want["scales"]] == list(canvas.maps)
            assert want["n_tokens"] == canvas.schedule.total
            assert tuple(want["pixel"]) == canvas.image_size()


def test_rotations_count_rows_and_columns_as_published(manifest):
    """Rotations of every map of every aspect ratio count rows and columns as published, ties rounded to even."""
    for key, scales in manifest("rope_index_tables")["table"].items():
        rows, columns = rows_and_columns(Canvas(PUBLISHED_NAMES[key], "1M"))
        want_rows = torch.cat([torch.tensor(s["h"]).repeat_interleave(len(s["w"])) for s in scales])
        want_columns = torch.cat([torch.tensor(s["w"]).repeat(len(s["h"])) for s in scales])
        assert torch.equal(want_rows, rows.long())
        assert torch.equal(want_columns, columns.long())


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("aspect", ASPECTS)
def test_a_canvas_is_found_by_its_maps(aspect, pixels):
    """Maps belong to one canvas, with or without a time axis."""
    canvas = Canvas(aspect, pixels)
    assert canvas == find_canvas(canvas.maps)
    assert canvas == find_canvas(canvas.schedule)


@pytest.mark.parametrize(
    ("aspect", "pixels", "message"),
    [
        ("9:16", "1M", r"no aspect ratio '9:16' \(width:height\); the nearest are 4:7, 1:2$"),
        ("16:9", "1M", r"no aspect ratio '16:9' \(width:height\); the nearest are 7:4, 2:1$"),
        ("square", "1M", r"no aspect ratio 'square' \(width:height\); there are 1:1, 4:5"),
        ("1:0", "1M", r"no aspect ratio '1:0' \(width:height\); there are 1:1, 4:5"),
        ("1:1", "2M", r"no image size of '2M' pixels; there are 0.06M, 0.25M, 0.60M, 1M$"),
    ],
)
def test_what_does_not_exist_is_refused(aspect, pixels, message):
    """The error names the nearest aspect ratios, or all if none is near."""
    with pytest.raises(InputError, match=message):
        Canvas(aspect, pixels)


def test_maps_of_nobody_are_refused():
    """A schedule that was not published has no rotations."""
    with pytest.raises(InputError, match="no aspect ratio and size of Infinity has the maps 1x1 3x3"):
        find_canvas([(1, 1), (3, 3)])
