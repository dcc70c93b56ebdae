"""Random captions of each task, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from scalekv_adapters.infinity.tiny.captions import COLOURS, RELATIONS, SHAPES, TASKS, Caption, Thing
from scalekv_core.errors import unknown_name

Option = TypeVar("Option")


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
