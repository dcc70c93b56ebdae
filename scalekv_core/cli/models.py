"""``scalekv models``: what can be named after ``--model``, and what its cache weighs before anything is loaded."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from scalekv_core.cli import console

if TYPE_CHECKING:
    from scalekv_core.models.card import ModelCard


def models() -> None:
    """List the image models, the size of their caches, and where their weights come from."""
    from scalekv_core.cli.installed import model_card, the_registry
    from scalekv_core.errors import ScaleKVError
    from scalekv_core.shapes.geometry import format_bytes

    registry = the_registry()
    if not registry.names("model"):
        console.say("no installed plugin offers an image model")
    for name in registry.names("model"):
        console.heading(name)
        try:
            card = model_card(name)
        except ScaleKVError as error:
            console.say_below(str(error))
            continue
        shape, schedule = card.geometry, card.geometry.schedule
        dtype = str(shape.dtype).removeprefix("torch.")
        console.say_below(card.summary)
        rows = [
            ("maps", f"{schedule}: {schedule.total} tokens, of which {schedule.last_history} enter the last scale"),
            ("layers", f"{shape.layers}, each with {shape.heads} heads of width {shape.head_dim}"),
            ("cache", f"{format_bytes(shape.unmodified_bytes)} a row unmodified, attention in {dtype}"),
            ("weights", f"{where_from(card)}: {card.weights}"),
            ("from", registry.offer("model", name).owner),
        ]
        if card.example:
            rows.append(("try", f"scalekv generate {shlex.quote(card.example)} --model {name}"))
        console.pairs(rows)


def where_from(card: ModelCard) -> str:
    """How its weights are come by, in a few words."""
    if not card.needs_weights:
        return "ready"
    return "by name from the hub (extra 'hub'), or --weights" if card.fetches else "needs --weights"
