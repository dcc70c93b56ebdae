"""The contents of a study's page as plain values: texts, tables, plot data, thumbnails. The template places them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from scalekv_core.compare.leaderboard import Submission, merged
from scalekv_core.compare.page.part import part_of
from scalekv_core.compare.results import results_of
from scalekv_core.compare.store import Store
from scalekv_core.plugins.registry import Registry


@frozen(eq=False, kw_only=True)
class Page:
    """The contents of a whole page.

    Attributes:
        title, command: of the study.
        folder: of the study, for the commands that read it.
        asked, environment: (name, text) of what was asked and what it ran on.
        models: one part for each.
    """

    title: str
    command: str
    folder: str
    asked: Sequence[tuple[str, str]]
    environment: Sequence[tuple[str, str]]
    models: Sequence[Mapping[str, Any]]

    @property
    def data(self) -> list[Any]:
        """The data for the script of the page, as JSON values."""
        return [part["data"] for part in self.models]


def page_of(store: Store, registry: Registry) -> Page:
    """The page of a study, finished or not."""
    question = store.question
    return Page(
        title=f"scalekv study: {', '.join(question['models'])}",
        command=store.command,
        folder=store.folder.name or str(store.folder),
        asked=_asked(question),
        environment=_environment(store.environment),
        models=[part_of(results, question["metrics"][-1], question) for results in results_of(store, registry)],
    )


def leaderboard_page(found: Sequence[Submission], registry: Registry, *, protocol: str = "") -> Page:
    """The page of several studies of one protocol, ranked together."""
    question = found[0].store.question
    hidden = {"policies", "budgets", "codecs", "vary"}
    asked = _asked({name: ([] if name in hidden else value) for name, value in question.items()} | {"vary": {}})
    return Page(
        title=f"scalekv leaderboard: {', '.join(question['models'])}",
        command="",
        folder=found[0].name,
        asked=[row for row in asked if row[1]] + ([("protocol", protocol)] if protocol else []),
        environment=[(f"{one.name}: {what}", text) for one in found for what, text in one.provenance if text],
        models=[part_of(results, question["metrics"][-1], question) for results in merged(found, registry)],
    )


def _asked(question: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("policies", ", ".join(question["policies"])), ("budgets", ", ".join(question["budgets"]))]
    if question["codecs"]:
        rows.append(("codecs", ", ".join(question["codecs"])))
    rows += [(f"varied {name}", ", ".join(values)) for name, values in question["vary"].items()]
    rows += [(f"prompts of {model}", str(len(prompts))) for model, prompts in question["prompts"].items()]
    rows.append(("seeds", ", ".join(map(str, question["seeds"]))))
    rows += [(name, str(value)) for name, value in question["sampling"].items()]
    rows += [(name, str(question[name])) for name in ("aspect", "size", "dtype") if question[name]]
    return [*rows, ("images at once", str(question["batch"])), ("metrics", ", ".join(question["metrics"]))]


def _environment(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(name, version) for name, version in known["versions"].items()]
    rows += [("python", known["python"]), ("device", known["device"])]
    return rows + [(f"weights of {model}", short or "not hashed") for model, short in known["weights"].items()]
