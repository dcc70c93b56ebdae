"""The application: the list of commands, and what happens around each of them."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from scalekv_core.cli import console
from scalekv_core.cli.groups import with_groups
from scalekv_core.cli.parsing import Command, Commands

COMMANDS = (
    "generate",
    "compare",
    "report",
    "recommend",
    "calibrate",
    "explain",
    "app",
    "plan",
    "bench",
    "convert",
    "policies",
    "models",
    "plugins",
    "new-plugin",
    "check",
    "doctor",
)
"""Modules of this package, with underscores, each with a function of the same name: its signature is the command's, its
docstring the help."""


def make_app(arguments: Sequence[str] = ()) -> typer.Typer:
    """The application with the command that the arguments call, or with all where they call none.

    Only the called command is built: building all of them takes longer than most of them run.
    """
    app = typer.Typer(
        cls=Commands,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(scalekv)
    called = tuple(arguments[:1])
    for name in called if set(called) & set(COMMANDS) else COMMANDS:
        function = name.replace("-", "_")
        module = importlib.import_module(f"{__package__}.{function}")
        command = getattr(module, function)
        app.command(name, cls=Command, help=help_of(command))(guarded(with_groups(command)))
    return app


def help_of(command: Callable[..., None]) -> str:
    """Its docstring with one line for each paragraph: the terminal says where lines break."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        console.say(f"scalekv {version('scalekv')}")
        raise typer.Exit


def scalekv(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Swap KV-cache compression policies, by name, in visual autoregressive image models."""


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with plugin problems told first, and every mistake of a user as one line and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        told: list[str] = []
        try:
            told += tell_problems()
            command(*args, **kwargs)
        except KeyboardInterrupt:
            console.complain("interrupted; nothing was written")
            raise typer.Exit(130) from None
        except Exception as error:
            code = tell(error, told)
            if code is None:  # a bug: let it be seen
                raise
            raise typer.Exit(code) from None

    return run


def tell_problems() -> list[str]:
    """Prints one line for every plugin that is not in use; returns the lines."""
    from scalekv_core.cli.installed import the_registry
    from scalekv_core.errors import ScaleKVError

    try:
        problems = [str(problem) for problem in the_registry().problems]
    except ScaleKVError:  # nothing is installed, or SCALEKV_PLUGINS is wrong: the command says so when it needs it
        return []
    for problem in problems:
        console.complain(problem)
    return problems


def tell(error: Exception, told: Sequence[str] = ()) -> int | None:
    """Prints what a user can do something about, and returns the exit code; None for everything else.

    Args:
        error: what a command raised.
        told: lines that were printed before and need not be printed again.
    """
    from scalekv_core.errors import ScaleKVError, first_line
    from scalekv_core.pipeline.out_of_memory import is_out_of_memory

    if isinstance(error, ScaleKVError):
        message = str(error)
        for line in told:
            message = message.replace(f"\n{line}", "")
        console.complain(message)
        return 2
    if isinstance(error, OSError) and error.filename is not None:
        console.complain(f"{os.fsdecode(error.filename)} cannot be used ({error.strerror})")
        return 2
    if is_out_of_memory(error):
        console.complain(f"out of memory: {first_line(error)}")
        return 2
    return None
