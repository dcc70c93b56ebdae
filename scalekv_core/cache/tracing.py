"""What torch.compile must not trace: planning on the host, and what a cache does with Python's lists and numbers."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

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


def exclude_from_graphs(owner: object, method: str) -> None:
    """Puts the same method, :func:`untraced`, into one object, which does not hold itself by it and so is freed as before."""
    if "torch._dynamo" not in sys.modules:
        return
    weak = weakref.WeakMethod(getattr(owner, method))

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = weak()
        assert bound is not None
        return bound(*args, **kwargs)

    setattr(owner, method, untraced(call))
