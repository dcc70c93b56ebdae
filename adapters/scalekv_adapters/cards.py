"""What the cards of all families have in common: models that ship with their weights, and profiles beside weights."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import torch

from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel

SHIPS = "ship with scalekv"
"""The `ModelCard.weights` of such a model."""


def profiles_beside(file: Path, pattern: str) -> list[AttentionProfile]:
    """The attention profiles of such names in the folder of this file; ProfileError if one is damaged."""
    return [AttentionProfile.load(path) for path in sorted(file.parent.glob(pattern)) if path.is_file()]


class ShippedCard(ModelCard):
    """A model that ships with its weights: stands beside the card of its family.

    Attributes:
        name: that it is loaded by.
    """

    __slots__ = ()

    name: str

    def load(
        self,
        *,
        weights: Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        allow_nonfinite: bool = False,
    ) -> ImageModel:
        """The model; the transformer in this dtype, what is beside it in float32.

        Raises:
            InputError: weights are given.
        """
        if weights is not None:
            raise InputError(f"model {self.name!r} ships with its weights; leave out --weights (got {weights})")
        return self.shipped(device, dtype)

    @abstractmethod
    def shipped(self, device: str, dtype: torch.dtype) -> ImageModel:
        """The model that ships."""
