"""Prompts as the transformer reads them: the text features of all prompts of a batch, end to end, without padding.

Any text encoder can make the features: T5 for the published models, a small one for a small model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Protocol

import torch
from attrs import evolve, field, frozen
from torch import Tensor

from scalekv_core.errors import InputError


def _as_lens(lens: Iterable[int]) -> tuple[int, ...]:
    return tuple(int(length) for length in lens)


class TextEncoder(Protocol):
    """What turns prompts into features."""

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features (L_i, C) of each prompt.

        Raises:
            InputError: a prompt is empty or too long.
        """
        ...


@frozen(eq=False)
class PackedText:
    """Text features of B prompts, packed.

    Attributes:
        features: (sum of lens, C).
        lens: how many of them belong to each prompt.

    Raises:
        InputError: there is no prompt, an empty one, or the features are not as many as the lengths say.
    """

    features: Tensor
    lens: tuple[int, ...] = field(converter=_as_lens)

    def __attrs_post_init__(self) -> None:
        if not self.lens or min(self.lens) < 1:
            raise InputError(f"a text needs prompts of at least one text token each; got lengths {list(self.lens)}")
        if self.features.dim() < 2 or len(self.features) != sum(self.lens):
            raise InputError(
                f"a text of lengths {list(self.lens)} needs features ({sum(self.lens)}, C); "
                f"got {tuple(self.features.shape)}"
            )

    @classmethod
    def pack(cls, features: Sequence[Tensor]) -> PackedText:
        """The features (L_i, C) of each prompt, packed.

        >>> PackedText.pack([torch.zeros(2, 8), torch.ones(3, 8)]).lens
        (2, 3)
        """
        if not features:
            raise InputError("a text needs prompts of at least one text token each; got none")
        return cls(torch.cat(list(features)), [len(prompt) for prompt in features])

    def __len__(self) -> int:
        return len(self.lens)

    def to(self, *args: object) -> PackedText:
        """The same text with its features elsewhere, or in another dtype; arguments as of ``Tensor.to``."""
        return self.with_features(self.features.to(*args))  # type: ignore[call-overload]

    def with_features(self, features: Tensor) -> PackedText:
        """A text of the same lengths."""
        return evolve(self, features=features)

    def followed_by(self, other: PackedText) -> PackedText:
        """A text of the prompts of both."""
        return PackedText(torch.cat((self.features, other.features)), self.lens + other.lens)

    @cached_property
    def place_in_prompt(self) -> Tensor:
        """(sum of lens,) the index of every feature within its own prompt."""
        return torch.cat([torch.arange(length) for length in self.lens]).to(self.features.device)

    @cached_property
    def prompt_of(self) -> Tensor:
        """(sum of lens,) which prompt every feature belongs to."""
        lens = torch.tensor(self.lens)
        return torch.arange(len(self.lens)).repeat_interleave(lens).to(self.features.device)

    @cached_property
    def seen(self) -> Tensor | None:
        """(B, 1, 1, longest) which places of `padded` hold a feature; None if all do."""
        if len(set(self.lens)) == 1:
            return None
        lens = torch.tensor(self.lens)
        places = torch.arange(max(self.lens))
        return (places < lens[:, None])[:, None, None].to(self.features.device)

    @cached_property
    def _index(self) -> Tensor:
        lens = torch.tensor(self.lens)
        starts = lens.cumsum(0) - lens
        places = torch.arange(max(self.lens))
        return torch.where(places < lens[:, None], starts[:, None] + places, 0).to(self.features.device)

    def padded(self, x: Tensor) -> Tensor:
        """(B, longest, ...) of x (sum of lens, ...); what `seen` does not mark is a copy of something else."""
        if self.seen is None:
            return x.view(len(self.lens), self.lens[0], *x.shape[1:])
        return x[self._index]
