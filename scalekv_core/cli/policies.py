"""``scalekv policies``: what can be named after ``--policy``, and what each part can be set to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekv_core.cli import console

if TYPE_CHECKING:
    from scalekv_core.contracts.policy import Policy
    from scalekv_core.plugins.registry import Registry

Name = Annotated[str | None, typer.Argument(help="A policy, to be shown in detail.", show_default=False)]


def policies(name: Name = None) -> None:
    """List the policies with their parts and options; with a NAME, one in detail."""
    from scalekv_core.cli.installed import the_registry

    registry = the_registry()
    if name is not None:
        print_policy(registry, name)
        return
    if not registry.names("policy"):
        console.say("no installed plugin offers a policy")
        return
    print_policies(registry)
    print_parts(registry)
    console.say()
    console.say("scalekv policies NAME tells more about one; any part can be exchanged: --selector NAME")


def print_policies(registry: Registry) -> None:
    """One block per policy: what it is, its budget and whether it needs a profile, plugin, parts and options, paper."""
    for name in registry.names("policy"):
        offer = registry.offer("policy", name)
        console.heading(name)
        policy = _made(registry, "policy", name)
        if isinstance(policy, str):
            console.pairs([("problem", policy)])
            continue
        console.pairs([("", summary(offer.factory))], indent=0)
        rows = [("budget", policy.budget), ("profile", "needed" if policy.needs_profile else "not needed")]
        paper = [("paper", policy.paper)] if policy.paper else []
        console.pairs([*rows, *parts_in_words(registry, policy).items(), ("from", offer.owner), *paper])


def print_parts(registry: Registry) -> None:
    """The names that each part can be exchanged for."""
    from scalekv_core.contracts.policy import PARTS

    console.heading("parts by name")
    console.pairs((part, ", ".join(registry.names(part)) or "none") for part in PARTS)


def print_policy(registry: Registry, name: str) -> None:
    """Everything about one policy: what each part does, and each option with type, value and what it may be."""
    from scalekv_core.cli.installed import registered_name

    offer = registry.offer("policy", name)
    policy: Policy = registry.make("policy", name)
    console.heading(f"{name}: {summary(offer.factory)}")
    if policy.paper:
        console.say(policy.paper)
    needs = "needs an attention profile (scalekv calibrate)" if policy.needs_profile else "needs no profile"
    console.say(f"default budget {policy.budget}; {needs}; {offer.owner}")
    for part, strategy in policy.parts.items():
        known = registered_name(registry, part, strategy) or type(strategy).__name__
        console.heading(f"{part}: {known}")
        console.say(summary(type(strategy)))
        if options := described_options(strategy):
            made = console.table("option", "default", "type", "may be", text=("option", "type", "may be"))
            for option in options:
                console.row(made, *option)
            console.show(made)


def parts_in_words(registry: Registry, policy: Policy) -> dict[str, str]:
    """{part: name and options}, without the parts that do nothing worth saying."""
    from scalekv_core.cli.installed import registered_name
    from scalekv_core.contracts.options import options_of

    words = {}
    for part, strategy in policy.parts.items():
        known = registered_name(registry, part, strategy) or type(strategy).__name__
        options = " ".join(f"{name}={value}" for name, value in options_of(strategy).items())
        words[part] = f"{known} {options}".strip()
    return words


def described_options(strategy: Any) -> list[tuple[str, str, str, str]]:
    """(name, value, type, what it may be) of each option of a strategy."""
    import attrs

    from scalekv_core.contracts.options import options_of

    if not attrs.has(type(strategy)):
        return []
    fields = attrs.fields_dict(attrs.resolve_types(type(strategy)))
    return [
        (name, str(value), type_in_words(fields[name].type), rule_in_words(fields[name].validator))
        for name, value in options_of(strategy).items()
    ]


def type_in_words(hint: Any) -> str:
    """A type as people read it.

    >>> type_in_words(int), type_in_words(int | None)
    ('int', 'int or none')
    """
    from typing import Literal, get_args, get_origin

    if get_origin(hint) is Literal:
        return "text"
    if args := [arg for arg in get_args(hint) if arg is not Ellipsis]:
        if get_origin(hint) in (tuple, list):
            return f"{get_origin(hint).__name__} of {type_in_words(args[0])}"
        return " or ".join(type_in_words(arg) for arg in args)
    return {"NoneType": "none", "str": "text"}.get(getattr(hint, "__name__", ""), getattr(hint, "__name__", str(hint)))


def rule_in_words(validator: Any) -> str:
    """What an attrs validator lets pass, as far as it can be told from it.

    >>> from attrs.validators import and_, ge, in_, lt
    >>> rule_in_words(and_(ge(1), lt(9))), rule_in_words(in_(("max", "avg")))
    ('>= 1, < 9', 'max, avg')
    """
    if validator is None:
        return ""
    for several in ("_validators", "validators"):
        if hasattr(validator, several):
            return ", ".join(filter(None, map(rule_in_words, getattr(validator, several))))
    if hasattr(validator, "bound"):
        return f"{getattr(validator, 'compare_op', '')} {validator.bound}".strip()
    if hasattr(validator, "options"):
        return ", ".join(map(str, validator.options))
    if hasattr(validator, "validator"):  # optional(...)
        return rule_in_words(validator.validator)
    if hasattr(validator, "type"):
        return ""
    return str(getattr(validator, "__name__", "")).replace("_", " ")


def summary(thing: Any) -> str:
    """The first line of a docstring."""
    from scalekv_core.plugins.offers import summary_of

    return summary_of(thing)


def _made(registry: Registry, kind: str, name: str) -> Any:
    """What a name stands for, or why it cannot be made: one broken plugin must not hide the others."""
    from scalekv_core.errors import ScaleKVError

    try:
        return registry.make(kind, name)
    except ScaleKVError as error:
        return str(error)
