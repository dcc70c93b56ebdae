"""What is installed: the registry, what is known of a model before it is loaded, and the names of strategies."""

from __future__ import annotations

from typing import Any

from scalekv_core.models.card import ModelCard
from scalekv_core.plugins import registry as registries
from scalekv_core.plugins.registry import Registry


def the_registry() -> Registry:
    """The registry that every command uses."""
    return registries.shared_registry()


def model_card(name: str) -> ModelCard:
    """What is known of a model before it is loaded; UnknownName if there is none."""
    card: ModelCard = the_registry().make("model", name)
    return card


def registered_name(registry: Registry, part: str, strategy: Any) -> str | None:
    """The name under which a strategy can be had: of the same value, or else of the same class."""
    made = {}
    for name in registry.names(part):
        try:
            made[name] = registry.make(part, name)
        except Exception:  # a foreign factory that fails has no part in this
            continue
    same = [name for name, value in made.items() if value == strategy]
    alike = [name for name, value in made.items() if type(value) is type(strategy)]
    return next(iter(same + alike), None)
