"""What every command does with its arguments before it runs: an empty text is refused, and a mistake is shown shortened."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from scalekv_core.cli import console
from scalekv_core.errors import readable

PROMPTS = ("prompt", "prompts")
"""Arguments that may be empty: what a prompt means is the model's."""

_UsageError: Any = (
    typer.BadParameter.__base__
)  # typer uses its own copy of click, or in older versions the one installed


class Command(TyperCommand):
    """A command that refuses an empty text wherever a name, a number or a path is wanted.

    ``Path("")`` would be the current directory, and an empty name would stand for the default.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        for parameter in self.get_params(ctx):
            if parameter.name not in PROMPTS and _has_empty(given.get(parameter.name)):
                console.complain(_empty(parameter))
                raise typer.Exit(2)
        return super().parse_args(ctx, args)


class Commands(TyperGroup):
    """The list of commands; mistakes in their arguments repeat no text of thousands of letters."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            error.message = readable(error.message)
            raise


def _has_empty(given: Any) -> bool:
    """Whether a value, or one of several, is an empty text."""
    if isinstance(given, (list, tuple)):
        return any(map(_has_empty, given))
    return isinstance(given, str) and not given


def _empty(parameter: Any) -> str:
    name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or parameter.name
    other = "write . for the current directory" if parameter.metavar == "DIR" else "give a value"
    return f"{name} is an empty text, which names nothing; {other}{'' if parameter.required else ', or leave it out'}"
