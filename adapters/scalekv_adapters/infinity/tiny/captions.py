"""The captions of infinity-tiny: a small grammar, with the tasks of GenEval as its five kinds of sentence.

One place knows the words: the generator of drawings writes captions, the text encoder and the judge read them, and whoever
types something else is told what there is.
Source of the tasks: Ghosh et al., GenEval, 2023 (arXiv 2310.11513).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from attrs import frozen

from scalekv_core.errors import InputError, unknown_name

__all__ = ["COLOURS", "RELATIONS", "SHAPES", "TASKS", "WORDS", "Caption", "Thing", "parse", "random_caption"]

COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.80, 0.05),
}
"""Name of a colour to red, green and blue in [0, 1]."""

SHAPES = ("circle", "square", "triangle")
RELATIONS: Mapping[str, tuple[int, int]] = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
"""How one thing lies to another: the direction (right, down) from the first to the second."""

TASKS = ("single object", "colour", "counting", "position", "two colours")
"""The kinds of caption, as in GenEval."""

Option = TypeVar("Option")

_NUMBERS = ("a", "two", "three")
WORDS = (
    *_NUMBERS,
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
        number = _NUMBERS[len(self.things) - 1]
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
        raise InputError(f"caption {text!r}: unknown word {unknown[0]!r}; the words are {', '.join(WORDS)}")
    return words


def _things(words: list[str], text: str) -> tuple[Thing, ...]:
    number, *colours, shape = words if len(words) > 1 else ["", ""]
    colour = colours[0] if colours else None
    count = _NUMBERS.index(number) + 1 if number in _NUMBERS else 0
    singular = shape if count == 1 else shape.removesuffix("s")
    fits = singular in SHAPES and (count == 1 or shape.endswith("s"))
    if not count or len(colours) > 1 or (colour is not None and colour not in COLOURS) or not fits:
        raise _no_caption(text)
    return (Thing(colour, singular),) * count


def _no_caption(text: str) -> InputError:
    return InputError(f"caption {text!r} is of no form that can be drawn; write for example {_FORMS}")


def random_caption(task: str, source: torch.Generator) -> Caption:
    """A caption of this kind; two things that are named differ in colour, shape or, for the task "two colours", both.

    Raises:
        UnknownName: there is no such task.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    colour, other_colour = _two(tuple(COLOURS), source)
    shape, other_shape = _two(SHAPES, source)
    if task == "single object":
        return Caption((Thing(None, shape),))
    if task == "colour":
        return Caption((Thing(colour, shape),))
    if task == "counting":
        return Caption((Thing(_one((None, colour), source), shape),) * (2 + _below(2, source)))
    kinds = [(other_colour, other_shape), (other_colour, shape), (colour, other_shape)]
    second = Thing(*kinds[0 if task == "two colours" else _below(3, source)])
    relation = "and" if task == "two colours" else _one(tuple(RELATIONS), source)
    return Caption((Thing(colour, shape), second), relation)


def _below(limit: int, source: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=source))


def _one(options: Sequence[Option], source: torch.Generator) -> Option:
    return options[_below(len(options), source)]


def _two(options: Sequence[Option], source: torch.Generator) -> tuple[Option, Option]:
    order = torch.randperm(len(options), generator=source)[:2].tolist()
    return options[order[0]], options[order[1]]
