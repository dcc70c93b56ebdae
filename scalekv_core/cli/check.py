"""``scalekv check``: which promises a strategy keeps, whoever wrote it and whatever it does."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekv_core.cli import console
from scalekv_core.errors import InputError, unknown_name

if TYPE_CHECKING:
    from scalekv_core.plugins.registry import Registry
    from scalekv_core.testing import Outcome
    from scalekv_core.testing.proving import Subject

WORDS = {"kept": "kept", "broken": "BROKEN", "hangs": "HANGS", "not applicable": "not made"}

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A registered name, or module:Class of one that is not registered.")
]
Kind = Annotated[
    str | None,
    typer.Option("--kind", metavar="KIND", help="Only the selector, policy, ... of that name. [dim]default: all[/dim]"),
]
PromiseName = Annotated[str | None, typer.Option("--promise", metavar="PROMISE", help="Only this promise.")]
CaseLine = Annotated[
    str | None,
    typer.Option("--case", metavar="LINE", help="Only this case of one promise, as an earlier check printed it."),
]
Examples = Annotated[int, typer.Option("--examples", min=1, metavar="N", help="Cases for each promise.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the choice of cases.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="What one case may take.")]


def check(
    name: Name,
    kind: Kind = None,
    promise: PromiseName = None,
    case: CaseLine = None,
    examples: Examples = 50,
    seed: Seed = 0,
    timeout: Timeout = 10.0,
) -> None:
    """Check every promise of a policy, selector, merger, codec, adapter, ...; exit 1 if one is broken.

    A promise that is broken is shown with the smallest case that breaks it, and the command that checks this case again.
    """
    _need_the_kit()
    subjects = list(subjects_of(name, kind))
    if case is not None:
        raise typer.Exit(replayed(subjects, promise, case))
    broken = 0
    for subject, owner in subjects:
        console.heading(f"{subject.kind} {subject.name}, {owner}")
        with console.busy(f"checking {subject.kind} {subject.name}"):
            outcomes = list(outcomes_of(subject, promise, examples=examples, seed=seed, timeout=timeout))
        print_outcomes(outcomes)
        if all(outcome.state == "not applicable" for outcome in outcomes):
            raise InputError(f"nothing of {subject.kind} {subject.name!r} was checked: {outcomes[0].reason}")
        broken += sum(outcome.state in ("broken", "hangs") for outcome in outcomes)
    if broken:
        raise typer.Exit(1)


def _need_the_kit() -> None:
    """Raises MissingExtra if Hypothesis is not installed, InputError if Python runs without assert statements."""
    from scalekv_core import testing

    _ = testing.run_checks  # loading it says what is missing
    from scalekv_core.testing.running import refuse_switched_off

    refuse_switched_off()


def subjects_of(name: str, kind: str | None) -> Iterator[tuple[Subject, str]]:
    """What is to be checked, and who offers it.

    Raises:
        UnknownName: nothing has that name, or not of that kind.
        InputError, PluginError: it cannot be imported or made, or is no strategy.
    """
    from scalekv_core.cli.installed import the_registry
    from scalekv_core.testing.kinds import KINDS
    from scalekv_core.testing.running import registered

    if ":" in name:
        yield _imported(name, kind), "not registered"
        return
    registry: Registry = the_registry()
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind of strategy", kind, KINDS)
    kinds = [one for one in KINDS if (one, name) in registry.offers and kind in (None, one)]
    if not kinds:
        known = {known for of, known in registry.offers if kind in (None, of)}
        raise unknown_name(kind or "strategy", name, known, hint=_problems(registry))
    for one in kinds:
        yield registered(registry, one, name), str(registry.offer(one, name).owner)


def _problems(registry: Registry) -> str:
    return "".join(f"\n{problem}" for problem in registry.problems)


def _imported(name: str, kind: str | None) -> Subject:
    """The class or function at ``module:name``, found from the current directory too."""
    from scalekv_core.testing.kinds import kind_of
    from scalekv_core.testing.proving import Subject
    from scalekv_core.testing.running import specimen_for

    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")
    try:
        make: Any = getattr(importlib.import_module(module), attribute)
        made = make()
    except Exception as error:  # whatever a foreign module or class raises
        raise InputError(f"{name!r} cannot be made ({type(error).__name__}: {_first_line(error)})") from error
    finally:
        sys.path.remove("")
    found = kind_of(made)
    if kind not in (None, found):
        raise InputError(f"{name!r} is a {found}, and no {kind}")
    return Subject(found, name, make, specimen_for(None, found, made))


def outcomes_of(
    subject: Subject, promise: str | None, *, examples: int, seed: int, timeout: float
) -> Iterator[Outcome]:
    """How each promise went, or the one that is asked for; UnknownName if there is none."""
    from scalekv_core.testing.kinds import promise as promise_of
    from scalekv_core.testing.running import try_all

    only = None if promise is None else {promise_of(subject.kind, promise).name}
    yield from try_all(subject, only=only, examples=examples, seed=seed, timeout=timeout)


def print_outcomes(outcomes: list[Outcome]) -> None:
    """A line for each promise; below, why some are not made, and whatever is broken with its smallest case."""
    made = console.table("promise", "result", "seconds", text=("promise", "result"))
    for outcome in outcomes:
        console.row(made, outcome.promise, WORDS[outcome.state], f"{outcome.seconds:.2f}" if outcome.seconds else "")
    console.show(made)
    not_made = [outcome for outcome in outcomes if outcome.state == "not applicable"]
    for reason in dict.fromkeys(outcome.reason for outcome in not_made):
        names = ", ".join(outcome.promise for outcome in not_made if outcome.reason == reason)
        console.say(f"not made, since {reason}: {names}")
    for outcome in outcomes:
        if outcome.state in ("broken", "hangs"):
            print_broken(outcome)


def print_broken(outcome: Outcome) -> None:
    """What is wrong, the smallest case, and the command that checks it again, in one line to copy."""
    console.heading(f"{WORDS[outcome.state]} {outcome.promise}")
    which = "smallest case" if outcome.state == "broken" else "case"
    console.pairs([("why", outcome.reason), *([(which, outcome.case)] if outcome.case else [])])
    console.say("  check it again:")
    print(f"    {outcome.replay}")


def replayed(subjects: list[tuple[Subject, str]], promise: str | None, case: str) -> int:
    """Checks one case; prints what goes wrong, with the traceback if the strategy raised it. 0 if nothing does.

    Raises:
        InputError: it is not said which promise of which one strategy.
    """
    from scalekv_core.testing.common import NotApplicable
    from scalekv_core.testing.kinds import promise as promise_of

    if promise is None or len(subjects) != 1:
        raise InputError("--case wants --promise, and --kind where several kinds have the name")
    subject, _ = subjects[0]
    one = promise_of(subject.kind, promise)
    parsed = None if one.case is None else one.case.parse(case)
    try:
        one.call(subject.make, subject.specimen, parsed)
    except NotApplicable as reason:
        console.say(f"{promise}: this case does not bear on it: {reason}")
        return 0
    except AssertionError as error:
        console.say(f"{promise}: BROKEN: {_first_line(error)}")
        return 1
    except Exception:  # the strategy's own: its author wants to see where
        console.say(f"{promise}: BROKEN")
        traceback.print_exc()
        return 1
    console.say(f"{promise}: kept")
    return 0


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
