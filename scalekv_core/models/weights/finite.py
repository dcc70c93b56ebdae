"""Weights that are not finite make images that are not a number, and figures that look perfect. They are refused."""

from __future__ import annotations

from torch import Tensor

from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights.source import Weights
from scalekv_core.models.weights.states import State


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds neither infinities nor NaN; makes no tensor of its size."""
    if not value.is_floating_point() or not value.numel():
        return True
    wide = value.float() if value.dtype.itemsize == 1 else value  # torch finds no minimum of float8
    return all(bool(bound.isfinite()) for bound in wide.aminmax())


def check_finite(weights: Weights, kept: State, stored: State) -> None:
    """Refuses the first tensor that is not finite.

    Args:
        weights: where they come from; its format names the tensors that may hold infinities.
        kept: as they will be used.
        stored: the same tensors as they are in the file.

    Raises:
        CheckpointError: naming the tensor, and what to do: the file is damaged, or its numbers are too large for their new
            dtype.
    """
    for name, value in kept.items():
        if name in weights.format.masks or is_finite(value):
            continue
        check_cast(weights, name, value, stored[name])
        raise CheckpointError(
            f"checkpoint {weights.path}: tensor {name} has values that are not finite; fetch it again, or accept it "
            "(--allow-nonfinite, allow_nonfinite=True)"
        )


def check_cast(weights: Weights, name: str, cast: Tensor, stored: Tensor) -> None:
    """Raises CheckpointError if a tensor was finite before it was cast, and is not any more."""
    if cast.dtype != stored.dtype and not is_finite(cast) and is_finite(stored):
        dtype = str(cast.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"checkpoint {weights.path}: tensor {name} has values too large for {dtype}; load it as bfloat16 or float32"
        )
