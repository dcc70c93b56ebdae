"""What the menus of the page offer: everything that is installed, in the registry's words."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from scalekv_core.contracts.policy import Policy
from scalekv_core.models.card import ModelCard
from scalekv_core.plugins.offers import summary_of
from scalekv_core.plugins.registry import Registry

OWN = ""
"""The value of a menu that leaves what the model or the policy has."""
Choices = list[tuple[str, str]]
"""(what is shown, value) of each entry."""


@frozen(kw_only=True)
class ModelFields:
    """What the page shows of a model.

    Attributes:
        summary: one sentence.
        example: a prompt to try it with.
        guidance: its strength by default, as text.
        aspects, sizes: what it offers; the first leaves its own.
    """

    summary: str
    example: str
    guidance: str
    aspects: Choices
    sizes: Choices


def models(registry: Registry) -> Choices:
    """Every model; those whose weights do not ship say so, and come last."""
    cards = {name: _made(registry, "model", name) for name in registry.names("model")}
    ready = [(name, name) for name, card in cards.items() if card is not None and not card.needs_weights]
    return ready + [(f"{name} (needs weights)", name) for name, card in cards.items() if (name, name) not in ready]


def policies(registry: Registry) -> Choices:
    """Every policy."""
    return [(name, name) for name in registry.names("policy")]


def codecs(registry: Registry) -> Choices:
    """Every codec, after the policy's own."""
    return [("the policy's own", OWN), *((name, name) for name in registry.names("codec"))]


def model_fields(registry: Registry, name: str) -> ModelFields:
    """What the page shows of this model; raises what the registry does if there is none."""
    card: ModelCard = registry.make("model", name)
    strengths = ",".join(f"{strength:g}" for strength in card.sampling.strengths)
    return ModelFields(
        summary=card.summary,
        example=card.example,
        guidance=strengths,
        aspects=_with_own(card.aspects),
        sizes=_with_own(card.sizes),
    )


def policy_summary(registry: Registry, name: str) -> str:
    """The first line about a policy, and its budget by default."""
    policy: Policy = registry.make("policy", name)
    return f"{summary_of(registry.offer('policy', name).factory)} Default budget: {policy.budget}."


def _with_own(values: tuple[str, ...]) -> Choices:
    return [("the model's own", OWN), *((value, value) for value in values)]


def _made(registry: Registry, kind: str, name: str) -> Any:
    """What a name stands for; None if its plugin fails, which is said when it is chosen."""
    try:
        return registry.make(kind, name)
    except Exception:
        return None
