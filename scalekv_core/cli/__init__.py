"""The command line: names in, pictures and tables out. It knows no policy and no model; the registry does.

One module per command, each with a function of the module's name; ``application`` lists them. What several commands share:

- ``arguments``, ``groups``: options, each declared once; ``choice``, ``policy_file``: which policies, from both;
- ``jobs``, ``installed``: prompts and seeds, the registry;
- ``generating``, ``saving``, ``record``, ``sheets``, ``writing``: images, and the files that they go into;
- ``console``, ``tables``, ``figures``: what is printed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

from scalekv_core.cli import interrupts

OUTPUT_ERRORS = {errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EBADF}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 done, 1 out of memory or a doctor's finding, 2 a user's mistake, 130 interrupted.

    Args:
        argv: the arguments; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _safe_output(), _noticing_interrupts():
            from scalekv_core.cli.application import make_app

            make_app(arguments)(args=arguments, prog_name="scalekv", obj=tuple(arguments))
    except KeyboardInterrupt:  # before a command has begun; commands see to it themselves
        sys.exit(130)
    sys.exit(0)


@contextlib.contextmanager
def _noticing_interrupts() -> Iterator[None]:
    """Ctrl-C in the middle of an import can come out as any other error, since the module is left half loaded."""
    interrupts.forget()
    if threading.current_thread() is not threading.main_thread():  # only that one may set what a signal does
        yield
        return
    former = signal.signal(signal.SIGINT, interrupts.notice)
    try:
        yield
    except Exception as error:
        if interrupts.noticed():
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, former)


@contextlib.contextmanager
def _safe_output() -> Iterator[None]:
    """Letters that the locale cannot hold are escaped, and a standard output that is full is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in OUTPUT_ERRORS:
            raise
        print(f"scalekv: cannot print ({error.strerror})", file=sys.stderr)
        sys.exit(2)
    finally:
        _flush_or_discard()


def _flush_or_discard() -> None:
    """Python flushes once more when it ends; what could not be written then must not be an error after the last line."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
