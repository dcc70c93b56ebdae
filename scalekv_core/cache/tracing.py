"""What torch.compile must not trace: planning on the host is no work of the device."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def untraced(function: Function) -> Function:
    """The same function, excluded from compiled graphs; the function itself if nothing is compiled.

    Asking for it imports PyTorch's compiler, which takes seconds, so it is asked only where it is imported already.
    """
    if "torch._dynamo" not in sys.modules:
        return function
    disabled: Function = torch.compiler.disable(function)
    return disabled
