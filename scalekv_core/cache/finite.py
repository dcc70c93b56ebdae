"""Finds where numbers stop being finite: ``check=True`` looks at each attention, which costs a device sync."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv_core.errors import NonFiniteError


def check_finite(layer: int, scale: int, **tensors: Tensor) -> None:
    """Raises NonFiniteError with layer and scale if one of these tensors holds NaN or infinity.

    >>> check_finite(3, 1, queries=torch.tensor([1.0, torch.inf]))
    Traceback (most recent call last):
    scalekv_core.errors.NonFiniteError: the queries of layer 3 at scale 1 are not finite (NaN or infinity): the model overflows in float32, or its weights are damaged
    """
    for name, x in tensors.items():
        if not bool(torch.isfinite(x).all()):
            raise NonFiniteError(
                f"the {name} of layer {layer} at scale {scale} are not finite (NaN or infinity): the model overflows in "
                f"{str(x.dtype).removeprefix('torch.')}, or its weights are damaged"
            )
