"""Studies of one protocol side by side. A protocol is a study file that fixes what must be equal; policies are free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from scalekv_core.compare.compact import located
from scalekv_core.compare.differences import differences
from scalekv_core.compare.growth import fixed
from scalekv_core.compare.prompts import prompts_named
from scalekv_core.compare.question_file import QuestionFile
from scalekv_core.compare.results import Results, results_of
from scalekv_core.compare.store import Store
from scalekv_core.errors import InputError
from scalekv_core.plugins.registry import Registry


@frozen(eq=False, kw_only=True)
class Submission:
    """A study with its display name and its environment."""

    name: str
    store: Store

    @property
    def provenance(self) -> list[tuple[str, str]]:
        known = self.store.environment
        versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
        return [("command", self.store.command), ("versions", versions), ("device", known["device"])]


def submissions(studies: Sequence[Path], registry: Registry) -> list[Submission]:
    """The studies in these folders or files, each by its name; the name of a model is the study that ships with it.

    Raises:
        InputError: there is none, or two have one name.
    """
    found = [
        Submission(name=study.resolve().name.removesuffix(".sqlite"), store=Store.open(located(study, registry)))
        for study in studies
    ]
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two studies are called {twice[0]!r}; rename one, since its name is that of the entry")
    return found


def check_protocol(found: Sequence[Submission], protocol: Path | None) -> None:
    """Refuses studies that cannot be ranked in one table.

    Args:
        found: the studies.
        protocol: a study file; without one, all must ask what the first one asks.

    Raises:
        InputError: one differs; the message says in what.
    """
    wanted = fixed(found[0].store.question) if protocol is None else _fixed_by(protocol)
    same = _frozen(found[0].store.environment)
    for one in found:
        asked = {name: value for name, value in one.store.question.items() if name in wanted}
        apart = differences(asked, wanted) + differences(_frozen(one.store.environment), same)
        if apart:
            against = found[0].name if protocol is None else str(protocol)
            raise InputError(f"study {one.name!r} cannot be compared with {against}: {'; '.join(apart)}")


def _frozen(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal in the environments of two studies, beside their questions."""
    return {name: environment[name] for name in ("weights", "profiles")}


def _fixed_by(protocol: Path) -> dict[str, Any]:
    told = QuestionFile.load(protocol)
    prompts = {model: list(prompts_named(name)) for model, name in told.prompts.items()}
    told_fixed = {
        "models": list(told.models),
        "prompts": prompts,
        "seeds": list(told.seeds),
        "sampling": dict(told.sampling),
        "metrics": list(told.metrics),
        "batch": told.batch,
        "aspect": told.aspect,
        "size": told.size,
        "dtype": told.dtype,
    }
    return {name: value for name, value in told_fixed.items() if value not in (None, [], {})}


def merged(found: Sequence[Submission], registry: Registry) -> list[Results]:
    """The settings of all studies, model by model, each with its study."""
    by_study = [results_of(one.store, registry) for one in found]
    together = []
    for parts in zip(*by_study, strict=True):
        rows = [
            evolve(row, id=number, study=one.name)
            for number, (one, row) in enumerate(
                (one, row) for one, part in zip(found, parts, strict=True) for row in part.rows
            )
        ]
        together.append(evolve(parts[0], rows=rows))
    return together
