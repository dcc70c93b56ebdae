"""Wrappers around a model: an adapter attaches to the model inside, so that is what must be passed."""

from __future__ import annotations

from torch import nn

from scalekv_core.errors import SessionError

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def refuse_wrapper(model: nn.Module) -> None:
    """Raises SessionError if this is a model wrapped by torch.compile or for data parallelism; it names the inner module.

    >>> refuse_wrapper(nn.Sequential(nn.Linear(2, 2)))
    """
    compiled = model._modules.get("_orig_mod")  # of torch.compile, whose class takes seconds to import
    name = "_orig_mod" if compiled is not None else "module" if isinstance(model, _PARALLEL) else None
    if name is not None:
        inner = type(getattr(model, name)).__name__
        raise SessionError(
            f"this {type(model).__name__} wraps a {inner}; pass the {inner} itself, which is its attribute {name!r}"
        )
