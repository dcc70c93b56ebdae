"""Compares two records of measurements that have the same settings."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from scalekv_core.errors import InputError


@frozen(kw_only=True)
class Change:
    """One contender in two records.

    Attributes:
        name: which one.
        seconds: of an image, median, before and after.
        ratio: to the unmodified cache of the same run, median, before and after: what another load of the machine does
            not change.
        selection: share of the time, before and after; None where it was not measured.
        peak: bytes, before and after; None where they were not measured.
    """

    name: str
    seconds: tuple[float, float]
    ratio: tuple[float, float]
    selection: tuple[float, float] | None
    peak: tuple[int, int] | None


@frozen(kw_only=True)
class Comparison:
    """The changes between two records of the same settings.

    Attributes:
        changes: of the contenders that both have.
        only: names that one of them has.
        versions: {package: (before, after)} where they differ.
        cut_short: which of the two are not whole.
    """

    changes: tuple[Change, ...]
    only: tuple[str, ...]
    versions: Mapping[str, tuple[str, str]]
    cut_short: tuple[str, ...]


def read_record(path: Path) -> dict[str, Any]:
    """A record that ``scalekv bench --json`` wrote.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise InputError(f"record {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"record {path} is not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("scalekv_bench") != 1:
        raise InputError(f"{path} is not a record that this version of scalekv bench --json wrote")
    return record


def _refuse_constant(text: str) -> None:
    """Refuses NaN and Infinity, which Python's JSON reader accepts."""
    raise ValueError(f"{text} is not a number in JSON")


def compare_records(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    """The change of every figure from one record to the other.

    Raises:
        InputError: they were made under different settings, or have no contender in common.
    """
    refuse_different(before, after)
    mine, theirs = before["contenders"], after["contenders"]
    both = [name for name in mine if name in theirs and mine[name]["ratio"] and theirs[name]["ratio"]]
    if not both:
        raise InputError(f"the records time no contender in common: {', '.join(mine)} against {', '.join(theirs)}")
    return Comparison(
        changes=tuple(_change(name, mine[name], theirs[name]) for name in both),
        only=tuple(name for name in [*mine, *theirs] if name not in both),
        versions=_versions(before, after),
        cut_short=tuple(which for which, record in (("first", before), ("second", after)) if not record["complete"]),
    )


def refuse_different(before: Mapping[str, Any], after: Mapping[str, Any], *, but: Collection[str] = ()) -> None:
    """Raises InputError, naming every setting that differs, unless both measured the same thing.

    Args:
        before, after: the records.
        but: settings that may differ.
    """
    mine, theirs = dict(before["settings"]), dict(after["settings"])
    for name in (name for name in before["contenders"] if name in after["contenders"]):
        mine |= _given(name, before["contenders"][name])
        theirs |= _given(name, after["contenders"][name])
    names = dict.fromkeys([*mine, *theirs])
    differ = [
        f"{name} {_text(mine, name)} / {_text(theirs, name)}"
        for name in names
        if name not in but and mine.get(name) != theirs.get(name)
    ]
    if differ:
        raise InputError(f"these records cannot be compared, their settings differ: {'; '.join(differ)}")


def _given(name: str, contender: Mapping[str, Any]) -> dict[str, Any]:
    """What a contender was told to do."""
    return {f"{name}: budget": contender["budget"]} | {f"{name}: {k}": part for k, part in contender["parts"].items()}


def _text(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name, "not there")
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _change(name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Change:
    selections = [one["selection"]["median"] for one in (mine, theirs) if one["selection"]]
    peaks = [one["bytes"]["peak"] for one in (mine, theirs) if one["bytes"]]
    return Change(
        name=name,
        seconds=(mine["seconds"]["median"], theirs["seconds"]["median"]),
        ratio=(mine["ratio"]["median"], theirs["ratio"]["median"]),
        selection=(selections[0], selections[1]) if len(selections) == 2 else None,
        peak=(peaks[0], peaks[1]) if len(peaks) == 2 else None,
    )


def _versions(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    mine, theirs = before.get("versions", {}), after.get("versions", {})
    names = sorted({*mine, *theirs})
    pairs = {name: (str(mine.get(name, "none")), str(theirs.get(name, "none"))) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
