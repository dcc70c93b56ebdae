"""The maps that InfinityStar was trained on, by aspect ratio and size, and what its published settings pass."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from scalekv_adapters.infinitystar.pyramids import Grid, Pyramids
from scalekv_core.errors import unknown_name
from scalekv_core.shapes.schedule import ScaleSchedule

ASPECTS = {
    "1.0": "1x1 2x2 3x3 4x4 5x5 6x6 7x7 8x8 10x10 12x12 16x16 24x24 32x32 40x40 60x60",
    "0.861": "1x1 2x2 3x3 4x4 5x5 6x6 6x8 7x9 9x11 11x13 15x17 22x26 30x34 37x43 56x65",
    "1.16": "1x1 2x2 3x3 4x4 5x5 6x6 8x6 9x7 11x9 13x11 17x15 26x22 34x30 43x37 65x56",
    "0.753": "1x1 2x2 3x3 3x5 4x6 5x7 6x8 7x9 9x12 10x14 14x18 21x28 28x37 35x46 52x69",
    "1.326": "1x1 2x2 3x3 5x3 6x4 7x5 8x6 9x7 12x9 14x10 18x14 28x21 37x28 46x35 69x52",
    "0.671": "1x1 2x2 2x4 3x5 4x6 5x7 6x9 7x10 8x12 10x15 13x20 20x29 26x39 33x49 49x73",
    "1.489": "1x1 2x2 4x2 5x3 6x4 7x5 9x6 10x7 12x8 15x10 20x13 29x20 39x26 49x33 73x49",
    "0.562": "1x1 2x3 2x4 3x5 4x7 4x8 5x9 6x11 8x13 9x16 12x21 18x32 24x43 30x53 45x80",
    "1.777": "1x1 3x2 4x2 5x3 7x4 8x4 9x5 11x6 13x8 16x9 21x12 32x18 43x24 53x30 80x45",
    "0.494": "1x1 1x3 2x4 3x6 4x7 4x8 5x10 6x11 7x14 8x17 11x23 17x34 23x45 28x57 42x85",
    "2.023": "1x1 3x1 4x2 6x3 7x4 8x4 10x5 11x6 14x7 17x8 23x11 34x17 45x23 57x28 85x42",
    "0.4": "1x2 1x3 2x5 3x6 3x8 4x9 4x11 5x13 6x16 8x19 10x25 15x38 20x51 25x63 38x95",
    "2.5": "2x1 3x1 5x2 6x3 8x3 9x4 11x4 13x5 16x6 19x8 25x10 38x15 51x20 63x25 95x38",
    "0.336": "1x2 1x3 2x5 2x7 3x9 3x10 4x12 5x14 6x17 7x21 9x28 14x42 18x55 23x69 35x104",
    "2.971": "2x1 3x1 5x2 7x2 9x3 10x3 12x4 14x5 17x6 21x7 28x9 42x14 55x18 69x23 104x35",
}
"""{height / width: the maps (rows x columns) of a pyramid of 720p}; smaller sizes pass the first of them."""
RATIOS = {
    "1:1": "1.0", "7:6": "0.861", "6:7": "1.16", "4:3": "0.753", "3:4": "1.326", "3:2": "0.671", "2:3": "1.489",
    "16:9": "0.562", "9:16": "1.777", "2:1": "0.494", "1:2": "2.023", "5:2": "0.4", "2:5": "2.5", "3:1": "0.336",
    "1:3": "2.971",
}  # fmt: skip
"""{aspect ratio as a person writes it, width:height: that of the table, which it is or is close to}."""
CLIP_FRAMES = 20
"""Latent frames of a clip of 5 seconds."""


@frozen(kw_only=True)
class Size:
    """What a size passes, which is the same for all aspect ratios.

    Attributes:
        scales: of a pyramid.
        semantic_scales: that have semantic codes, the first ones.
        repeats_of_clips: passes of the last scales of a clip; all others of its scales, and all of the image's, have three.
    """

    scales: int
    semantic_scales: int
    repeats_of_clips: tuple[int, ...]

    def repeats(self, frames: int) -> tuple[int, ...]:
        """Passes of every scale of a pyramid of so many latent frames."""
        last = self.repeats_of_clips if frames > 1 else ()
        return (3,) * (self.scales - len(last)) + last


SIZES: Mapping[str, Size] = {
    "480p": Size(scales=14, semantic_scales=11, repeats_of_clips=(2, 1)),
    "720p": Size(scales=15, semantic_scales=12, repeats_of_clips=(2, 1, 1)),
}
"""The published sizes."""
RUNS: Mapping[str, tuple[str, int]] = {
    "image-480p": ("480p", 0),
    "image-720p": ("720p", 0),
    "480p-5s": ("480p", 1),
    "480p-10s": ("480p", 2),
    "720p-5s": ("720p", 1),
}
"""{setting: its size, and how many clips of 5 seconds follow the first frame}."""
INTERACTIVE = "480p-interactive"
SETTINGS = (*RUNS, INTERACTIVE)
"""All published settings."""
SECONDS = {"480p-10s": 10}
"""Length of the clips that are not of 5 seconds; a single image is asked for as the first frame of a clip of 5."""
SEMANTIC_CONDITION = 7
"""The scale, from 0, at which an interactive clip is shown the frames before it."""
DETAIL_FRAMES = 3
"""Frames that an interactive clip is shown whole: the first of the story and the two before the clip."""


def grids_of(aspect: str, size: str) -> tuple[Grid, ...]:
    """Rows and columns of every scale; UnknownName if there is no such aspect ratio or size."""
    if aspect not in ASPECTS:
        raise unknown_name("aspect ratio of InfinityStar", aspect, ASPECTS)
    if size not in SIZES:
        raise unknown_name("size of InfinityStar", size, SIZES)
    texts = ASPECTS[aspect].split()[: SIZES[size].scales]
    return tuple((int(rows), int(columns)) for rows, columns in (text.split("x") for text in texts))


def published(setting: str, aspect: str = "0.562") -> Pyramids:
    """What a published setting passes.

    Raises:
        UnknownName: there is no such setting or aspect ratio.

    >>> published("720p-5s").schedule(text_tokens=20).total - 20
    157479
    """
    if setting not in SETTINGS:
        raise unknown_name("setting of InfinityStar", setting, SETTINGS)
    size, clips = RUNS.get(setting, ("480p", 1))
    grids = grids_of(aspect, size)
    interactive = setting == INTERACTIVE
    frames = (CLIP_FRAMES,) if interactive else (1, *[CLIP_FRAMES] * clips)
    conditions = ((CLIP_FRAMES, *grids[SEMANTIC_CONDITION]), (DETAIL_FRAMES, *grids[-1])) if interactive else ()
    return Pyramids(
        grids=grids,
        frames=frames,
        repeats=tuple(SIZES[size].repeats(number) for number in frames),
        semantic_scales=SIZES[size].semantic_scales,
        conditions=conditions,
    )


def size_of(setting: str) -> str:
    """The size of a published setting, a key of `SIZES`.

    >>> size_of("image-720p"), size_of(INTERACTIVE)
    ('720p', '480p')
    """
    return RUNS[setting][0] if setting in RUNS else "480p"


def is_interactive(schedule: ScaleSchedule) -> bool:
    """Whether its clip follows others: it begins with former frames, where other clips begin with one frame."""
    return schedule.without_prefix.maps[0][0] > 1
