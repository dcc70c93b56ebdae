"""A study grows by settings. All else must be equal: what its other settings were measured on, and with what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalekv_core.compare.differences import differences
from scalekv_core.compare.planning import PlannedSetting
from scalekv_core.errors import InputError

if TYPE_CHECKING:
    from scalekv_core.compare.store import Store

FREE = ("policies", "budgets", "codecs", "vary")
"""The fields of a question that name its settings; they may differ where studies are compared, merged or grow."""

Record = Mapping[str, Any]
"""A question or an environment as plain values."""


def fixed(question: Record) -> dict[str, Any]:
    """What must be equal in the questions of two studies whose settings stand in one table."""
    return {name: value for name, value in question.items() if name not in FREE}


def apart(mine: tuple[Record, Record], theirs: tuple[Record, Record]) -> list[str]:
    """The differences of two studies beside their settings, a line each; plugins that only one of them has are none.

    Args:
        mine, theirs: question and environment of each.
    """
    (asked, here), (other, there) = mine, theirs
    both = set(here.get("versions", ())) & set(there.get("versions", ()))
    return differences(fixed(asked), fixed(other)) + differences(_with(here, both), _with(there, both))


def _with(environment: Record, names: Collection[str]) -> dict[str, Any]:
    versions = environment.get("versions", {})
    return {**environment, "versions": {name: versions[name] for name in sorted(names)}}


def check_grows(store: Store, question: Record, environment: Record, settings: Sequence[PlannedSetting]) -> None:
    """Raises InputError, which names what differs, if a study is neither that of the question nor a part of it."""
    found = apart((question, environment), (store.question, store.environment))
    asked = {one.setting.key for one in settings}
    lost = [label for key, label in store.labels.items() if key not in asked]
    if lost:
        found += differences({n: question[n] for n in FREE}, {n: store.question[n] for n in FREE})
        found.append(f"setting {lost[0]!r}: not asked for here, measured there")
    if found:
        raise InputError(
            f"folder {store.folder} holds another study, which differs in {'; '.join(found)}; choose another folder, or ask "
            "the same of at least the same settings"
        )


def grow(store: Store, question: Record, environment: Record, settings: Sequence[PlannedSetting], command: str) -> None:
    """Adds the settings that a study lacks, within a transaction of the caller.

    Raises:
        InputError: as :func:`check_grows`.
    """
    check_grows(store, question, environment, settings)
    known = store.labels
    if any(one.setting.key not in known for one in settings):
        ask(store, question, with_plugins(environment, store.environment), command)
    for one in settings:
        store.add_setting(one)


def ask(store: Store, question: Record, environment: Record, command: str) -> None:
    """Writes what a study asks and where it runs, within a transaction of the caller."""
    asked, ran_on = (json.dumps(dict(record), sort_keys=True) for record in (question, environment))
    fingerprint = hashlib.sha256(asked.encode()).hexdigest()
    store.db.execute(
        "UPDATE study SET fingerprint = ?, question = ?, environment = ?, command = ?",
        (fingerprint, asked, ran_on, command),
    )


def with_plugins(mine: Record, theirs: Record) -> dict[str, Any]:
    """An environment with the plugins of both."""
    return {**mine, "versions": {**theirs.get("versions", {}), **mine.get("versions", {})}}
