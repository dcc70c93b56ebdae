"""``scalekv plugins``: who offers what, and which plugins are not in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalekv_core.cli import console

if TYPE_CHECKING:
    from scalekv_core.plugins.offers import Owner


def plugins() -> None:
    """List the plugins, what each offers, and those that are not in use."""
    from scalekv_core.cli.installed import the_registry
    from scalekv_core.plugins.offers import HOOKS

    registry = the_registry()
    for owner in registry.owners:
        console.heading(f"{owner.plugin} ({origin(owner)})")
        offered = {
            kind: [name for name in registry.names(kind) if registry.offer(kind, name).owner == owner] for kind in HOOKS
        }
        console.pairs((kind, ", ".join(names)) for kind, names in offered.items() if names)
    if registry.problems:
        console.heading("not in use")
        console.pairs(
            (problem.owner.plugin, f"{origin(problem.owner)}: {problem.reason}") for problem in registry.problems
        )


def origin(owner: Owner) -> str:
    """Distribution and version that a plugin comes from."""
    return f"{owner.distribution} {owner.version}".strip()
