"""Which policies a command runs: a file and the command line together, the strategies behind the names, and their plans."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from attrs import field, frozen

from scalekv_core.cli import console, defaults
from scalekv_core.cli.arguments import Compression
from scalekv_core.cli.installed import the_registry
from scalekv_core.cli.policy_file import PartTable, PolicyFile
from scalekv_core.contracts.policy import PARTS, Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError, ScaleKVError
from scalekv_core.pipeline.job import Job
from scalekv_core.pipeline.running import plan_job
from scalekv_core.planning.planner import Planned

Chosen = tuple[Policy, str | None]
"""A policy and its budget; None is the policy's own."""


@frozen(kw_only=True)
class Choice:
    """What to run.

    Attributes:
        policies: names, or ``all`` alone.
        budget: as text, or None for each policy's own.
        parts: {part: name} of parts that are exchanged in every policy.
        options: {``option`` or ``part.option``: value}.
    """

    policies: tuple[str, ...]
    budget: str | None = None
    parts: Mapping[str, str] = field(factory=dict)
    options: Mapping[str, Any] = field(factory=dict)

    @property
    def every(self) -> bool:
        """Whether every policy is meant."""
        return self.policies == (defaults.EVERY,)


def choose(policies: Sequence[str] | None, how: Compression) -> Choice:
    """What the file and the command line say together. The command line wins: a part that it names overrides the
    file's settings for that part.

    Raises:
        InputError: the file cannot be used, an option is not ``name=value``, or a policy is named twice.
    """
    file = PolicyFile() if how.config is None else PolicyFile.load(how.config)
    named = {part: name for part in PARTS if (name := getattr(how, part)) is not None}
    tables = {part: getattr(file, part) for part in PARTS}
    for part, name in named.items():
        if tables[part].name not in (None, name):
            tables[part] = PartTable()
    from_tables = {f"{part}.{name}": value for part, t in tables.items() for name, value in t.options.items()}
    chosen = tuple(policies or file.policy or (defaults.POLICY,))
    if twice := [name for name in chosen if chosen.count(name) > 1]:
        raise InputError(f"policy {twice[0]!r} is named twice; name each policy once")
    if defaults.EVERY in chosen and len(chosen) > 1:
        raise InputError(f"policy {defaults.EVERY!r} already includes the others; name it alone")
    return Choice(
        policies=chosen,
        budget=how.budget if how.budget is not None else file.budget,
        parts={part: table.name for part, table in tables.items() if table.name is not None} | named,
        options={**file.options, **from_tables, **dict(read_option(text) for text in how.option or ())},
    )


def choose_one(policy: str | None, how: Compression, *, command: str) -> Choice:
    """The same for a command that takes one policy; InputError if there are several."""
    choice = choose(None if policy is None else [policy], how)
    if choice.every or len(choice.policies) > 1:
        raise InputError(f"{command} takes one policy at a time; got {', '.join(choice.policies)}")
    return choice


def read_option(text: str) -> tuple[str, str]:
    """(name, value) of ``name=value``.

    >>> read_option("selector.window=9")
    ('selector.window', '9')
    """
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise InputError(f"an option is given as name=value, such as window=9 or selector.window=9; got {text!r}")
    return name.strip(), value.strip()


def policies_of(choice: Choice) -> list[Chosen]:
    """Each chosen policy with its budget. Where several are compared, a policy that does not spend its budget keeps its
    own. ``all`` means those that do spend one and have the options that are set.

    Raises:
        UnknownName, InputError: a policy, part or option that is not there, or a value out of range.
    """
    registry = the_registry()
    names = registry.names("policy") if choice.every else choice.policies
    made = []
    with _leaving_out(choice, names) as attempt:
        for name in names:
            with attempt(name):
                made.append(registry.policy(name, options=choice.options, **choice.parts))
    if choice.every:
        made = [policy for policy in made if policy.allocator.spends_all]
    several = len(made) > 1
    return [(p, choice.budget if p.allocator.spends_all or not several else None) for p in made]


def plan_all(
    job: Job,
    choice: Choice,
    chosen: Sequence[Chosen],
    profile: AttentionProfile | None,
    *,
    memory: int | None = None,
) -> list[Planned]:
    """The plans of the batch, made before anything is loaded. ``all`` means those that can be planned for this model.

    Args:
        job: what is generated.
        choice, chosen: the policies.
        profile: the model's.
        memory: bytes that are free; None if unknown.

    Raises:
        BudgetError, ProfileError, ContractError: as :func:`~scalekv_core.planning.planner.plan_policy`.
        InputError: it does not fit into memory.
    """
    plans, registry = [], the_registry()
    with _leaving_out(choice, [policy.name for policy, _ in chosen]) as attempt:
        for policy, budget in chosen:
            with attempt(policy.name):
                plans.append(plan_job(job, policy, budget, profile, memory=memory, registry=registry))
    return plans


@contextlib.contextmanager
def _leaving_out(choice: Choice, names: Sequence[str]) -> Iterator[Callable[[str], AbstractContextManager[None]]]:
    """Refuses a policy that fails; with ``all`` it is left out, with a line that says why, unless every policy fails."""
    failed: list[ScaleKVError] = []

    @contextlib.contextmanager
    def attempt(name: str) -> Iterator[None]:
        try:
            yield
        except ScaleKVError as error:
            if not choice.every:
                raise
            failed.append(error)
            console.complain(f"policy {name!r} is left out: {error}")

    yield attempt
    if failed and len(failed) == len(names):
        raise failed[0]
