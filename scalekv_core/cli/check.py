"""``scalekv check``: which checks a strategy passes."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from scalekv_core.cli import console
from scalekv_core.cli.subjects import subjects_of
from scalekv_core.errors import InputError, first_line

if TYPE_CHECKING:
    from scalekv_core.testing import Outcome
    from scalekv_core.testing.trying import Subject

WORDS = {"passed": "passed", "failed": "FAILED", "timed out": "TIMED OUT", "not applicable": "not applicable"}

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A registered name, or module:Class of one that is not registered.")
]
Kind = Annotated[
    str | None,
    typer.Option("--kind", metavar="KIND", help="Only the selector, policy, ... of that name. [dim]default: all[/dim]"),
]
CheckName = Annotated[str | None, typer.Option("--check", metavar="CHECK", help="Make only this check.")]
FormerCheckName = Annotated[str | None, typer.Option("--promise", hidden=True)]
CaseLine = Annotated[
    str | None,
    typer.Option("--case", metavar="LINE", help="Only this case of one check, as an earlier run printed it."),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="NAME=VALUE", help="Check the strategy with this option. Repeatable."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FILE:NAME",
        help="The test model for an adapter: a TestModel in a Python file. [dim]default: an installed model[/dim]",
    ),
]
Examples = Annotated[int, typer.Option("--examples", min=1, metavar="N", help="Cases for each check.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the choice of cases.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Processor time that one case may take.")
]


def check(
    name: Name,
    kind: Kind = None,
    check_name: CheckName = None,
    case: CaseLine = None,
    option: Options = None,
    model: Model = None,
    examples: Examples = 50,
    seed: Seed = 0,
    timeout: Timeout = 10.0,
    former: FormerCheckName = None,
) -> None:
    """Check a policy, selector, merger, codec, adapter, ... in every way; exit 1 if a check fails.

    A fault is shown once, with the smallest case that shows it, the command that checks this case again, and the other
    checks that fail for the same reason.
    """
    _need_the_kit()
    check_name = check_name or former
    subjects = list(subjects_of(name, kind, options=option or (), model=model))
    if case is not None:
        raise typer.Exit(replayed(subjects, check_name, case))
    failed = 0
    for subject, owner in subjects:
        console.heading(f"{subject.kind} {subject.name}, {owner}")
        with console.busy(f"checking {subject.kind} {subject.name}"):
            outcomes = list(outcomes_of(subject, check_name, examples=examples, seed=seed, timeout=timeout))
        print_outcomes(outcomes)
        if all(outcome.state == "not applicable" for outcome in outcomes):
            raise InputError(f"nothing of {subject.kind} {subject.name!r} was checked: {outcomes[0].reason}")
        failed += sum(outcome.is_wrong for outcome in outcomes)
    if failed:
        raise typer.Exit(1)


def _need_the_kit() -> None:
    """Raises MissingExtra if Hypothesis is not installed, InputError if Python runs without assert statements."""
    from scalekv_core import testing

    _ = testing.run_checks  # loading it says what is missing
    from scalekv_core.testing.running import refuse_switched_off

    refuse_switched_off()


def outcomes_of(
    subject: Subject, check_name: str | None, *, examples: int, seed: int, timeout: float
) -> Iterator[Outcome]:
    """How each check went, or the one that is asked for; UnknownName if there is none."""
    from scalekv_core.cli.installed import the_registry
    from scalekv_core.testing.kinds import check_named
    from scalekv_core.testing.running import try_all

    only = None if check_name is None else {check_named(subject.kind, check_name).name}
    registry = the_registry() if subject.kind == "adapter" else None
    yield from try_all(subject, only=only, examples=examples, seed=seed, timeout=timeout, registry=registry)


def print_outcomes(outcomes: list[Outcome]) -> None:
    """A line for each check; below, why some do not apply, and each fault once with its smallest case."""
    made = console.table("check", "result", "cases", "refused", "seconds", text=("check", "result"))
    for outcome in outcomes:
        figures = (outcome.cases, outcome.refused, f"{outcome.seconds:.2f}" if outcome.seconds else "")
        console.row(made, outcome.check, WORDS[outcome.state], *(str(figure or "") for figure in figures))
    console.show(made)
    aside = [outcome for outcome in outcomes if outcome.state == "not applicable"]
    for reason in dict.fromkeys(outcome.reason for outcome in aside):
        names = ", ".join(outcome.check for outcome in aside if outcome.reason == reason)
        console.say(f"not applicable, since {reason}: {names}")
    wrong = [outcome for outcome in outcomes if outcome.is_wrong]
    for fault in dict.fromkeys(outcome.fault for outcome in wrong):
        print_fault([outcome for outcome in wrong if outcome.fault == fault])


def print_fault(outcomes: list[Outcome]) -> None:
    """What is wrong, the smallest case, the command that checks it again, and the other checks that fail for that reason."""
    shown = min(outcomes, key=lambda outcome: (not outcome.case, len(outcome.case)))
    others = [outcome.check for outcome in outcomes if outcome is not shown]
    console.heading(f"{WORDS[shown.state]} {shown.check}")
    which = "smallest case" if shown.state == "failed" else "case"
    pairs = [("why", shown.reason)]
    pairs += [(which, shown.case)] if shown.case else []
    pairs += [("and also", f"{len(others)} more: {', '.join(others)}")] if others else []
    console.pairs(pairs)
    if shown.replay:
        console.say("  check it again:")
        print(f"    {shown.replay}")


def replayed(subjects: list[tuple[Subject, str]], check_name: str | None, case: str) -> int:
    """Checks one case; prints what goes wrong, with the traceback if the strategy raised it. 0 if nothing does.

    Raises:
        InputError: it is not said which check of which one strategy.
    """
    from attrs import evolve

    from scalekv_core.cli.installed import the_registry
    from scalekv_core.testing.common import NotApplicable
    from scalekv_core.testing.kinds import check_named
    from scalekv_core.testing.subjects import test_model_for

    if check_name is None or len(subjects) != 1:
        raise InputError("--case needs --check, and --kind if several kinds have this name")
    subject, _ = subjects[0]
    one = check_named(subject.kind, check_name)
    parsed = None if one.case is None else one.case.parse(case)
    if one.needs_test_model and subject.test_model is None:
        subject = evolve(subject, test_model=test_model_for(the_registry(), subject.kind, subject.make()))
    try:
        one.call(subject.make, subject.test_model, parsed)
    except NotApplicable as reason:
        console.say(f"{check_name}: does not apply to this case: {reason}")
        return 0
    except AssertionError as error:
        console.say(f"{check_name}: FAILED: {first_line(error)}")
        return 1
    except Exception:  # the strategy's own: its author needs to see where
        console.say(f"{check_name}: FAILED")
        traceback.print_exc()
        return 1
    console.say(f"{check_name}: passed")
    return 0
