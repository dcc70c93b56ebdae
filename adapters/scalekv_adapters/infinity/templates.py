"""The sizes of Infinity images: fifteen aspect ratios, each in up to four sizes.

An aspect ratio has one list of thirteen maps, and a smaller image is a prefix of it: it ends earlier. The rotation that
tells attention where a token lies is relative to the last map of the *whole* list, whatever the image's size, so a
schedule alone does not say how to generate it; a :class:`Canvas` does.
Source: the published table of resolutions of Infinity (Han et al., 2024, arXiv 2412.04431).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from attrs import field, frozen

from scalekv_core.errors import InputError
from scalekv_core.shapes.schedule import ScaleSchedule

PIXELS: dict[str, int] = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""{how many pixels an image has, at most: how many maps it takes}."""

LATENT_STRIDE = 16
"""Pixels per token, along each side, in the published models."""

_UPRIGHT: dict[str, str] = {
    "1:1": "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
    "4:5": "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    "3:4": "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    "2:3": "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    "4:7": "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    "1:2": "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    "2:5": "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    "1:3": "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}
"""{width:height of the upright ratios: their maps, height x width}; the lying ones are these on their side."""

HeightWidth = tuple[int, int]


def _maps(text: str) -> tuple[HeightWidth, ...]:
    pairs = (pair.split("x") for pair in text.split())
    return tuple((int(height), int(width)) for height, width in pairs)


def _on_its_side(name: str) -> str:
    width, height = name.split(":")
    return f"{height}:{width}"


def _all_maps() -> dict[str, tuple[HeightWidth, ...]]:
    table: dict[str, tuple[HeightWidth, ...]] = {}
    for name, text in _UPRIGHT.items():
        table[name] = _maps(text)
        table.setdefault(_on_its_side(name), tuple((width, height) for height, width in table[name]))
    return table


ASPECTS: dict[str, tuple[HeightWidth, ...]] = _all_maps()
"""{aspect ratio, width:height: its thirteen maps (height, width)}."""


def nearest(aspect: str) -> list[str]:
    """The two aspect ratios that are closest to this one, or all if it is no ratio at all.

    >>> nearest("9:16")
    ['4:7', '1:2']
    """
    try:
        wanted = ratio(aspect)
    except (ValueError, ZeroDivisionError):
        return list(ASPECTS)
    return sorted(ASPECTS, key=lambda name: max(ratio(name), wanted) / min(ratio(name), wanted))[:2]


def ratio(aspect: str) -> float:
    """Width divided by height; ValueError or ZeroDivisionError if this is no ratio of positive numbers."""
    width, height = (float(side) for side in aspect.split(":"))
    if width <= 0:
        raise ValueError(aspect)
    return width / height


def _known_aspect(instance: object, attribute: object, aspect: str) -> None:
    if aspect not in ASPECTS:
        names = nearest(aspect)
        which = "the nearest are" if len(names) == 2 else "there are"
        raise InputError(f"there is no aspect ratio {aspect!r} (width:height); {which} {', '.join(names)}")


def _known_pixels(instance: object, attribute: object, pixels: str) -> None:
    if pixels not in PIXELS:
        raise InputError(f"there is no image size of {pixels!r} pixels; there are {', '.join(PIXELS)}")


@frozen
class Canvas:
    """The aspect ratio and size of an image.

    Attributes:
        aspect: width:height, a key of `ASPECTS`.
        pixels: a key of `PIXELS`.

    Raises:
        InputError: there is no such aspect ratio (the nearest ones are named) or size.

    >>> canvas = Canvas("3:4", "0.06M")
    >>> str(canvas.schedule), canvas.image_size()
    ('1x1 2x2 4x3 8x6 12x9 16x12 20x15', (320, 240))
    """

    aspect: str = field(default="1:1", validator=_known_aspect)
    pixels: str = field(default="1M", validator=_known_pixels)

    def __str__(self) -> str:
        return f"{self.aspect} at {self.pixels} pixels"

    @property
    def whole(self) -> HeightWidth:
        """(height, width) of the last map that this aspect ratio has in any size: what rotations are relative to."""
        return ASPECTS[self.aspect][-1]

    @property
    def maps(self) -> tuple[HeightWidth, ...]:
        """(height, width) of every map."""
        return ASPECTS[self.aspect][: PIXELS[self.pixels]]

    @cached_property
    def schedule(self) -> ScaleSchedule:
        """The maps of one image."""
        return ScaleSchedule(self.maps)

    def grids(self, patch: int = 1) -> tuple[HeightWidth, ...]:
        """(height, width) of every map of the VAE, where a token covers ``patch`` of its places along each side."""
        return tuple((patch * height, patch * width) for height, width in self.maps)

    def image_size(self, stride: int = LATENT_STRIDE) -> HeightWidth:
        """(height, width) of the image in pixels, where a token covers ``stride`` pixels along each side."""
        height, width = self.maps[-1]
        return stride * height, stride * width


def find_canvas(maps: Iterable[Iterable[int]]) -> Canvas:
    """The canvas whose maps are these, (h, w) or (1, h, w) each.

    Raises:
        InputError: no aspect ratio and size has this schedule.
    """
    schedule = ScaleSchedule([tuple(sizes) for sizes in maps])
    for aspect in ASPECTS:
        for pixels in PIXELS:
            canvas = Canvas(aspect, pixels)
            if canvas.schedule == schedule:
                return canvas
    raise InputError(f"no aspect ratio and size of Infinity has the maps {schedule}; Canvas names those that exist")
