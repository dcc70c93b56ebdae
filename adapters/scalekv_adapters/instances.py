"""Changing one instance and changing it back: how every adapter of this room attaches, so that classes stay untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

DROPOUTS = ("attn_drop", "drop_prob")
"""Attributes in which the official modules keep the rates of what they drop out themselves."""


def replace_attributes(instance: object, **attributes: Any) -> Callable[[], None]:
    """Sets attributes of this instance; what comes back restores its ``__dict__`` exactly.

    What the instance had of its own is put back, and what it only had from its class is its class's again.

    >>> class Bell:
    ...     def ring(self):
    ...         return "ding"
    >>> bell = Bell()
    >>> restore = replace_attributes(bell, ring=lambda: "dong")
    >>> bell.ring()
    'dong'
    >>> restore()
    >>> bell.ring(), vars(bell)
    ('ding', {})
    """
    own = vars(instance)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)

    def restore() -> None:
        for name in attributes:
            if name in before:
                own[name] = before[name]
            else:
                own.pop(name, None)

    return restore


def drops_out(model: nn.Module) -> bool:
    """Whether it would draw with something left out at random: parts of it are in training mode and have a rate of dropout.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    >>> drops_out(model), drops_out(model.eval())
    (True, False)
    """
    return any(part.training and _rate(part) > 0 for part in model.modules())


def _rate(part: nn.Module) -> float:
    rates = [vars(part).get(name) for name in DROPOUTS]
    if isinstance(part, nn.modules.dropout._DropoutNd):
        rates.append(part.p)
    return max((rate for rate in rates if isinstance(rate, (int, float))), default=0.0)
