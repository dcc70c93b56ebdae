"""From the steps of a family's loop to its images: the same for all families."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Protocol, TypeVar

from torch import Tensor

from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.models.finite import FiniteLogits
from scalekv_core.models.image_model import Generation


class Step(Protocol):
    """What happened at one scale, as far as every family has it; tokens and choices may be bits."""

    @property
    def logits(self) -> Tensor: ...
    @property
    def choices(self) -> Tensor: ...
    @property
    def tokens(self) -> Tensor: ...


AnyStep = TypeVar("AnyStep", bound=Step)


def collect(
    steps: Iterable[AnyStep],
    cache: AttentionCache,
    *,
    model: str,
    pictures: Callable[[AnyStep], Tensor],
    on_scale: Callable[[AnyStep], None] | None,
    keep_logits: bool,
) -> Generation:
    """Generates to the end and closes the cache, also after a failure; images are decoded after the cache is freed.

    Args:
        steps: one per scale.
        cache: of this generation.
        model: what generates, for messages.
        pictures: images (B, 3, H, W) of the last step.
        on_scale: called after every scale.
        keep_logits: also return the logits.

    Raises:
        NonFiniteError: the logits of a scale are not finite.
    """
    tokens, choices, logits, finite = [], [], [], FiniteLogits(model)
    with closing(cache):
        for step in steps:
            finite.see(step.logits)
            if on_scale is not None:
                on_scale(step)
            tokens.append(step.tokens)
            choices.append(step.choices)
            if keep_logits:
                logits.append(step.logits)
        finite.check()
    return Generation(
        images=pictures(step),
        tokens=tuple(tokens),
        choices=tuple(choices),
        logits=tuple(logits) if keep_logits else None,
    )
