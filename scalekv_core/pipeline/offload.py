"""The parts of a model take turns on the device: one of text encoder, transformer and decoder is there, the others in main memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from scalekv_core.errors import InputError
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.parts import DECODER, TRANSFORMER

REST = torch.device("cpu")
"""Where parts wait."""

Move = Callable[[nn.Module, torch.device], Any]


def to_device(module: nn.Module, device: torch.device) -> None:
    """Moves the weights and buffers of a module, in place."""
    module.to(device)


class Offload:
    """Moves the parts of a model to the device when their turn comes, and the part before away first.

    The text encoder and the transformer are announced by the model (`ImageModel.turn`). The decoder is announced by its own
    modules, which are called for previews, too.

    Args:
        model: tells its parts.
        device: where they run.
        move: moves a module.

    Raises:
        InputError: the model does not tell its parts.
    """

    def __init__(self, model: ImageModel, device: torch.device, *, move: Move = to_device) -> None:
        if not {TRANSFORMER, DECODER} <= set(model.parts):
            raise InputError(
                f"model {model.name!r} does not tell its parts (ImageModel.parts), so they cannot take turns on {device}"
            )
        self._parts, self._device, self._move = dict(model.parts), device, move
        self.there: str | None = None
        for part in self._parts:
            self._put(part, REST)
        for module in self._parts[DECODER]:
            module.register_forward_pre_hook(lambda *_: self.bring(DECODER))
        model.turn = self.bring  # type: ignore[method-assign]

    def bring(self, part: str) -> None:
        """Makes this part the one that is on the device."""
        if part == self.there:
            return
        if self.there is not None:
            self._put(self.there, REST)
        self.there = None  # until it has arrived: a move that fails for want of memory is tried again
        self._put(part, self._device)
        self.there = part

    def _put(self, part: str, device: torch.device) -> None:
        for module in self._parts[part]:
            self._move(module, device)
