"""What a generation of InfinityStar passes: a pyramid of maps for the first frame, and one for every clip after it."""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate

from attrs import frozen

from scalekv_core.errors import InputError
from scalekv_core.shapes.schedule import Map, ScaleSchedule

Grid = tuple[int, int]
"""Rows and columns."""
SEMANTIC_BITS, DETAIL_BITS = 16, 64
"""Bits of a position of a small and of a large map."""


@frozen(kw_only=True)
class Pass:
    """One pass of a map through the transformer.

    Attributes:
        number: of all passes so far, repetitions included.
        pyramid, scale: which one, and which of its maps.
        grid: (t, h, w).
        first_frame: of the pyramid, counted over the whole clip.
        bits: of a position.
        opens: whether it is the first of its pyramid, which starts from nothing.
        last: whether it is the last of its map, which is stored.
    """

    number: int
    pyramid: int
    scale: int
    grid: Map
    first_frame: int
    bits: int
    opens: bool
    last: bool


@frozen(kw_only=True)
class Pyramids:
    """The maps of a clip, how often each is passed, and which read which.

    Attributes:
        grids: rows and columns of every scale, the same in all pyramids.
        frames: latent frames of every pyramid.
        repeats: passes of every scale, by pyramid.
        semantic_scales: that have semantic codes, the first ones of each pyramid.
        conditions: maps of earlier frames that an interactive clip is shown; its maps read them and the text, nothing else.

    Raises:
        InputError: no pyramid, or not one number of passes for every scale.
    """

    grids: tuple[Grid, ...]
    frames: tuple[int, ...]
    repeats: tuple[tuple[int, ...], ...]
    semantic_scales: int
    conditions: tuple[Map, ...] = ()

    def __attrs_post_init__(self) -> None:
        wanted = [len(self.grids)] * len(self.frames)
        if not self.frames or [len(of_pyramid) for of_pyramid in self.repeats] != wanted:
            raise InputError(
                f"Pyramids: repeats has one number for each of {len(self.grids)} scales of {len(self.frames)} pyramids, at "
                f"least one; got {self.repeats}"
            )

    @property
    def whole(self) -> Grid:
        """Rows and columns of the last map, hence of the latent."""
        return self.grids[-1]

    @property
    def latent_frames(self) -> int:
        """Of all pyramids."""
        return sum(self.frames)

    @cached_property
    def maps(self) -> tuple[Map, ...]:
        """Of all pyramids, in order."""
        return tuple((t, *grid) for t in self.frames for grid in self.grids)

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """All passes of all maps, in order."""
        starts = list(accumulate(self.frames, initial=0))
        found: list[Pass] = []
        for pyramid, (frames, repeats) in enumerate(zip(self.frames, self.repeats, strict=True)):
            for scale, (grid, times) in enumerate(zip(self.grids, repeats, strict=True)):
                found += [
                    Pass(
                        number=len(found) + repetition,
                        pyramid=pyramid,
                        scale=scale,
                        grid=(frames, *grid),
                        first_frame=starts[pyramid],
                        bits=SEMANTIC_BITS if scale < self.semantic_scales else DETAIL_BITS,
                        opens=scale == repetition == 0,
                        last=repetition == times - 1,
                    )
                    for repetition in range(times)
                ]
        return tuple(found)

    @cached_property
    def bit_maps(self) -> ScaleSchedule:
        """The map of every pass: what is chosen, in order."""
        return ScaleSchedule([each.grid for each in self.passes])

    def schedule(self, text_tokens: int) -> ScaleSchedule:
        """What a cache is told: the text, the conditions, and every map once.

        A map reads the text and, in a pyramid after the first, the last map of the pyramid before.
        """
        front = 1 + len(self.conditions)
        reads: list[list[int]] = [[] for _ in range(front)]
        for pyramid in range(len(self.frames)):
            last = [front + pyramid * len(self.grids) - 1] if pyramid else []
            reads += [[*range(front), *last] for _ in self.grids]
        return ScaleSchedule([(1, 1, text_tokens), *self.conditions, *self.maps], reads=reads, prefix=True)
