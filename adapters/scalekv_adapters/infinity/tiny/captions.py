"""The captions of infinity-tiny: a small grammar, with the tasks of GenEval as its five kinds of sentence.

The text encoder reads them, and an unknown word or form is refused with what there is.
Source of the tasks: Ghosh et al., GenEval, 2023 (arXiv 2310.11513).
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from scalekv_adapters.shapes import COLOURS, SHAPES
from scalekv_core.errors import InputError, shortened

__all__ = ["COLOURS", "NUMBERS", "RELATIONS", "SHAPES", "TASKS", "WORDS", "Caption", "Thing", "parse"]

RELATIONS: Mapping[str, tuple[int, int]] = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
"""How one thing lies to another: the direction (right, down) from the first to the second."""

TASKS = ("single object", "colour", "counting", "position", "two colours")
"""The kinds of caption, as in GenEval."""

NUMBERS = ("a", "two", "three")
"""How captions count: one, two, three things of a kind."""

WORDS = (
    *NUMBERS,
    *COLOURS,
    *SHAPES,
    *(f"{shape}s" for shape in SHAPES),
    "and",
    "left",
    "right",
    "of",
    "above",
    "below",
)
"""Every word that a caption can hold."""

_FORMS = "'a red circle', 'three squares' or 'a red circle left of a blue square'"


@frozen
class Thing:
    """A shape, in a colour or in any."""

    colour: str | None
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}" if self.colour else self.shape


@frozen
class Caption:
    """What a picture shows: these things and no others.

    Attributes:
        things: one to three of one kind; or two, in the order in which they are named.
        relation: None for things of one kind; for two others "and", or how the first lies to the second.

    >>> print(Caption((Thing("red", "circle"), Thing("blue", "square")), "left of"))
    a red circle left of a blue square
    >>> Caption((Thing(None, "square"),) * 3).task
    'counting'
    """

    things: tuple[Thing, ...]
    relation: str | None = None

    def __str__(self) -> str:
        if self.relation is not None:
            return f"a {self.things[0]} {self.relation} a {self.things[1]}"
        number = NUMBERS[len(self.things) - 1]
        return f"{number} {self.things[0]}{'s' if len(self.things) > 1 else ''}"

    @property
    def task(self) -> str:
        """The kind of caption, one of TASKS."""
        if self.relation is not None:
            return "two colours" if self.relation == "and" else "position"
        if len(self.things) > 1:
            return "counting"
        return "colour" if self.things[0].colour else "single object"


def parse(text: str) -> Caption:
    """The caption that a text is.

    Raises:
        InputError: a word is not known (the known ones are named), or the words are no caption.

    >>> parse("two yellow triangles").things
    (Thing(colour='yellow', shape='triangle'), Thing(colour='yellow', shape='triangle'))
    """
    words = known_words(text)
    joint = next((i for i, word in enumerate(words) if i and word in ("and", "left", "right", "above", "below")), None)
    if joint is None:
        return Caption(_things(words, text))
    after = joint + (2 if words[joint] in ("left", "right") else 1)
    relation = " ".join(words[joint:after])
    first, second = _things(words[:joint], text), _things(words[after:], text)
    if (relation != "and" and relation not in RELATIONS) or len(first) + len(second) != 2:
        raise _no_caption(text)
    return Caption(first + second, relation)


def known_words(text: str) -> list[str]:
    """The words of a text; InputError if there are none, or one that is not among WORDS.

    >>> known_words("A red circle")
    ['a', 'red', 'circle']
    """
    words = text.lower().split()
    if not words:
        raise InputError(f"a caption is empty; write for example {_FORMS}")
    if unknown := [word for word in words if word not in WORDS]:
        raise InputError(
            f"caption {shortened(text)}: unknown word {shortened(unknown[0])}; the words are {', '.join(WORDS)}"
        )
    return words


def _things(words: list[str], text: str) -> tuple[Thing, ...]:
    number, *colours, shape = words if len(words) > 1 else ["", ""]
    colour = colours[0] if colours else None
    count = NUMBERS.index(number) + 1 if number in NUMBERS else 0
    singular = shape if count == 1 else shape.removesuffix("s")
    fits = singular in SHAPES and (count == 1 or shape.endswith("s"))
    if not count or len(colours) > 1 or (colour is not None and colour not in COLOURS) or not fits:
        raise _no_caption(text)
    return (Thing(colour, singular),) * count


def _no_caption(text: str) -> InputError:
    return InputError(f"caption {shortened(text)} has an unknown form; write for example {_FORMS}")
