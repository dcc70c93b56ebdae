"""The differences of two studies' records, short enough for a message however long the records are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scalekv_core.errors import shortened

LONGEST = 120
"""Letters of two lists that are shown in full."""


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The differences of two records of a question or an environment, a line each.

    >>> differences({"seeds": [0], "versions": {"torch": "2.13"}}, {"seeds": [0, 1], "versions": {"torch": "2.12"}})
    ['seeds: [0] here, [0, 1] there', "versions (torch): '2.13' here, '2.12' there"]
    >>> differences({"prompts": {"toy": [*range(100)]}}, {"prompts": {"toy": [*range(50)]}})
    ['prompts (toy): 100 here, 50 there; the first that differs is number 51: 50 here, none there']
    """
    names = sorted({*mine, *theirs})
    return [line for n in names for line in _lines(n, mine.get(n), theirs.get(n))]


def _lines(name: str, mine: Any, theirs: Any) -> Iterator[str]:
    if mine == theirs:
        return
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        for key in sorted({*mine, *theirs}):
            yield from _lines(f"{name} ({key})", mine.get(key), theirs.get(key))
    elif isinstance(mine, list) and isinstance(theirs, list) and len(f"{mine}{theirs}") > LONGEST:
        yield f"{name}: {len(mine)} here, {len(theirs)} there; {_first(mine, theirs)}"
    else:
        yield f"{name}: {_shown(mine)} here, {_shown(theirs)} there"


def _first(mine: Sequence[Any], theirs: Sequence[Any]) -> str:
    place = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    here, there = (_shown(values[place]) if place < len(values) else "none" for values in (mine, theirs))
    return f"the first that differs is number {place + 1}: {here} here, {there} there"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{len(value)} of them" if isinstance(value, list) and len(str(value)) > LONGEST else shortened(value)
