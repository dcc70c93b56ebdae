"""What HART is told: the features of a fixed number of text tokens for each prompt, and which of them are no padding.

Padding is attended to like any other token, as the model was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core.errors import InputError


@frozen(eq=False)
class Context:
    """Text of B prompts.

    Attributes:
        features: (B, T, C).
        real: (B, T) bool, which tokens are no padding.

    Raises:
        InputError: shapes that do not go together, or a prompt without a token.
    """

    features: Tensor
    real: Tensor

    def __attrs_post_init__(self) -> None:
        if self.features.dim() != 3 or self.real.shape != self.features.shape[:2] or self.real.dtype != torch.bool:
            raise InputError(
                f"HART is told features (B, T, C) and which tokens are real, bool (B, T); got {tuple(self.features.shape)} "
                f"and {self.real.dtype} {tuple(self.real.shape)}"
            )
        if not self.real.is_meta and not bool(self.real.any(1).all()):
            raise InputError("HART is told at least one text token of each prompt; one has none that is no padding")

    @classmethod
    def of(cls, features: Sequence[Tensor], tokens: int) -> Context:
        """Prompts of different lengths (L_i, C), padded with zeros at the end.

        Raises:
            InputError: no prompt, or one that is longer.
        """
        if not features or max(map(len, features)) > tokens:
            raise InputError(f"HART reads prompts of 1 to {tokens} text tokens; got {[len(x) for x in features]}")
        padded = torch.stack([torch.nn.functional.pad(x, (0, 0, 0, tokens - len(x))) for x in features])
        lengths = torch.tensor([len(x) for x in features])
        return cls(padded, torch.arange(tokens) < lengths[:, None])

    @property
    def last(self) -> Tensor:
        """(B,) the place of the last real token."""
        return self.real.sum(1) - 1

    def with_unconditional(self) -> Context:
        """The same and, behind it, as many prompts that say nothing: zeros, of which one token counts."""
        first = torch.zeros_like(self.real)
        first[:, 0] = True
        both = torch.cat((self.features, torch.zeros_like(self.features)))
        return Context(both, torch.cat((self.real, first)))

    def to(self, device: torch.device) -> Context:
        return Context(self.features.to(device), self.real.to(device))


class TextEncoder(Protocol):
    """Makes features of prompts."""

    def encode(self, prompts: Sequence[str]) -> Context:
        """The text of the prompts; InputError where one is too long."""
        ...
