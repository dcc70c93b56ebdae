"""Attaches a session to one instance of a model, and restores the instance exactly, whatever happens."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import nn

from scalekv_core.contracts.adapter import CacheSource, ModelAdapter
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import SessionError
from scalekv_core.session.attributes import Attributes

_attached: WeakKeyDictionary[nn.Module, tuple[str, ClosingSource]] = WeakKeyDictionary()
_attaching = threading.Lock()
"""Held while the register of attached models is read and written, so that of two threads one is refused."""


class ClosingSource(CacheSource, Protocol):
    """A source of caches that can be closed."""

    def close(self) -> None:
        """Ends it, and frees its memory."""
        ...


@contextlib.contextmanager
def attached(module: nn.Module, adapter: ModelAdapter, session: ClosingSource, owner: str) -> Iterator[None]:
    """Attaches a session to a model instance for the length of the block, and restores the instance exactly.

    An adapter that is interrupted on its way in or out leaves nothing in the instance: its attributes are put back.
    """
    try:
        _note(module, session, owner)
        before = Attributes.of(module)
        detach: Callable[[], None] = before.restore  # until the adapter has said how
        try:
            detach = adapter.attach(module, session)
            yield
        finally:
            try:
                detach()
            except BaseException:
                before.restore()
                raise
    finally:
        if _attached.get(module, ("", None))[1] is session:
            del _attached[module]
        session.close()


def _note(module: nn.Module, session: ClosingSource, owner: str) -> None:
    """Registers the module as attached; SessionError if it is already, by any thread."""
    with _attaching:
        if module in _attached:
            raise SessionError(
                f"this {type(module).__name__} is already attached to {_attached[module][0]!r}; leave that block first"
            )
        _attached[module] = owner, session


def unwrapped(model: Any) -> tuple[nn.Module, str | None, AttentionProfile | None]:
    """(module, name, profile) of what a user passed: a torch module, or an image model, which has all three.

    Raises:
        SessionError: it is neither, or a wrapper around the module whose attention is meant.
    """
    module, name, profile = model, None, None
    if not isinstance(model, nn.Module):
        module, name, profile = (getattr(model, attribute, None) for attribute in ("module", "name", "profile"))
    if not isinstance(module, nn.Module):
        raise SessionError(f"compress needs a torch module or an image model; got {type(model).__name__}")
    for wrapper, inner in _WRAPPERS.items():
        if type(module).__name__ == wrapper and isinstance(getattr(module, inner, None), nn.Module):
            raise SessionError(
                f"this {wrapper} wraps a {type(getattr(module, inner)).__name__}; give compress the inner module, "
                f"which is its attribute {inner!r}"
            )
    return module, name, profile


_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
"""{wrapper class: attribute with the inner module}; the first is what torch.compile returns."""
