"""The captions of star-tiny: a coloured shape that moves in a direction.

The text encoder reads them, and an unknown word or form is refused with what there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from attrs import frozen

from scalekv_adapters.shapes import COLOURS, SHAPES
from scalekv_core.errors import InputError, shortened

__all__ = ["COLOURS", "DIRECTIONS", "LENGTH", "SHAPES", "WORDS", "Caption", "every_caption", "parse"]

DIRECTIONS: Mapping[str, tuple[int, int]] = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
"""Name of a direction to how far it leads right and down."""

WORDS = ("a", *COLOURS, *SHAPES, "moves", *DIRECTIONS)
"""Every word that a caption can hold."""

LENGTH = 5
"""Words of a caption."""


@frozen
class Caption:
    """What a clip shows.

    >>> print(Caption("red", "circle", "right"))
    a red circle moves right
    """

    colour: str
    shape: str
    direction: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape} moves {self.direction}"


def every_caption() -> list[Caption]:
    """All captions that there are.

    >>> len(every_caption())
    48
    """
    return [Caption(*words) for words in product(COLOURS, SHAPES, DIRECTIONS)]


def parse(text: str) -> Caption:
    """The caption that a text is; capitals count as small letters.

    Raises:
        InputError: a word is not known (the known ones are named), or the words are no caption.

    >>> parse("A red circle moves right")
    Caption(colour='red', shape='circle', direction='right')
    """
    words = text.lower().split()
    if unknown := [word for word in words if word not in WORDS]:
        raise InputError(
            f"caption {shortened(text)}: unknown word {shortened(unknown[0])}; the words are {', '.join(WORDS)}"
        )
    fits = len(words) == LENGTH and words[0] == "a" and words[3] == "moves"
    if not fits or words[1] not in COLOURS or words[2] not in SHAPES or words[4] not in DIRECTIONS:
        raise InputError(f"caption {shortened(text)} has an unknown form; write for example 'a red circle moves right'")
    return Caption(words[1], words[2], words[4])
