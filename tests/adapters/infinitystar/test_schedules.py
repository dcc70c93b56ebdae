"""What the published settings of InfinityStar pass, and the bytes of their caches."""

from __future__ import annotations

import json

import pytest
import torch

from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.pyramids import Pyramids
from scalekv_adapters.infinitystar.templates import ASPECTS, SIZES, grids_of, published
from scalekv_core.errors import InputError, UnknownName
from tests.adapters.infinitystar.tokenizer_data import DATA

PIXEL_SIZES = {"480p": "0.40M", "720p": "0.90M"}
FIGURES = {  # setting: GiB of two rows unmodified and lossless, passes, latent frames
    "image-480p": (0.44, 0, 42, 1),
    "image-720p": (0.99, 0, 45, 1),
    "480p-5s": (9.17, 0.44, 81, 21),
    "480p-10s": (17.47, 8.73, 120, 41),
    "720p-5s": (20.76, 0.99, 85, 21),
    "480p-interactive": (10.41, 1.67, 39, 20),
}


def gib(number: int) -> float:
    return round(number / 2**30, 2)


@pytest.mark.parametrize("setting", FIGURES)
def test_bytes_of_every_published_setting(setting: str) -> None:
    """16:9, two rows, in bfloat16, without the text: what the official code stores, and the part that is read again."""
    pyramids = published(setting)
    shape = InfinityStarConfig().geometry(pyramids.schedule(text_tokens=512), torch.bfloat16)
    maps = shape.for_rows(2).of_maps
    found = gib(maps.unmodified_bytes), gib(maps.history_bytes), len(pyramids.passes), pyramids.latent_frames
    assert found == FIGURES[setting]
    assert 147_456 == shape.token_bytes
    assert 512 * shape.token_bytes == shape.history_bytes - shape.of_maps.history_bytes


def test_the_maps_of_all_aspect_ratios() -> None:
    """As recorded: 15 aspect ratios, 2 sizes."""
    recorded = json.loads((DATA / "manifests" / "infinitystar_schedules.json").read_text())["templates"]
    assert list(recorded) == list(ASPECTS)
    for aspect, sizes in recorded.items():
        for size in SIZES:
            maps = sizes[PIXEL_SIZES[size]]["maps"]
            assert [list(grid) for grid in grids_of(aspect, size)] == maps


def test_semantic_scales_are_those_that_the_quantiser_takes_by_their_area() -> None:
    """At least 350 tokens at 480p and 750 at 720p have detail codes, in every aspect ratio."""
    for aspect in ASPECTS:
        for size, least in {"480p": 350, "720p": 750}.items():
            large = [rows * columns >= least for rows, columns in grids_of(aspect, size)]
            assert large.index(True) == SIZES[size].semantic_scales, (aspect, size)


def test_a_clip_reads_the_last_map_before_it() -> None:
    """And the text; an interactive one its two conditions."""
    schedule = published("480p-10s").schedule(text_tokens=9)
    assert [list(schedule.read_by(m)) for m in (0, 1, 14, 15, 28, 29, 42)] == [
        [], [0], [0], [0, 14], [0, 14], [0, 28], [0, 28],
    ]  # fmt: skip
    interactive = published("480p-interactive").schedule(text_tokens=9)
    assert [list(interactive.read_by(m)) for m in range(5)] == [[], [], [], [0, 1, 2], [0, 1, 2]]
    assert ((1, 1, 9), (20, 6, 11), (3, 30, 53)) == interactive.maps[:3]


def test_every_pass_knows_its_place() -> None:
    """Numbered through all repetitions; only the last of a map is stored."""
    pyramids = Pyramids(grids=((1, 1), (2, 3)), frames=(1, 2), repeats=((2, 1), (1, 2)), semantic_scales=1)
    assert [p.number for p in pyramids.passes] == list(range(6))
    assert [p.last for p in pyramids.passes] == [False, True, True, True, False, True]
    assert [p.opens for p in pyramids.passes] == [True, False, False, True, False, False]
    assert [(p.first_frame, p.bits) for p in pyramids.passes][3:] == [(1, 16), (1, 64), (1, 64)]
    assert (1, 1, 6, 2, 12, 12) == pyramids.bit_maps.tokens


def test_refusals() -> None:
    """One line each."""
    with pytest.raises(UnknownName, match="setting of InfinityStar"):
        published("1080p-5s")
    with pytest.raises(UnknownName, match="aspect ratio of InfinityStar"):
        grids_of("16:9", "480p")
    with pytest.raises(UnknownName, match="size of InfinityStar"):
        grids_of("0.562", "360p")
    with pytest.raises(InputError, match="one number for each of 1 scales of 2 pyramids"):
        Pyramids(grids=((1, 1),), frames=(1, 2), repeats=((1,),), semantic_scales=1)
    with pytest.raises(InputError, match="no multiple of 8 per head"):
        InfinityStarConfig(width=48, heads=4, kv_heads=2)
    with pytest.raises(InputError, match="kv_heads must divide heads"):
        InfinityStarConfig(width=128, heads=4, kv_heads=3)
