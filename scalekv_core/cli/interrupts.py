"""Ctrl-C that got lost: an import may swallow the exception, and the command would go on. It is asked for again before work begins
and before files are written.
"""

from __future__ import annotations

_noticed = False


def notice(*_: object) -> None:
    """The handler of Ctrl-C: raises KeyboardInterrupt, and remembers that it did."""
    global _noticed
    _noticed = True
    raise KeyboardInterrupt


def noticed() -> bool:
    """Whether Ctrl-C was pressed since the command began."""
    return _noticed


def forget() -> None:
    """A command begins."""
    global _noticed
    _noticed = False


def stop_if_noticed() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed and an import swallowed the exception."""
    if _noticed:
        raise KeyboardInterrupt
