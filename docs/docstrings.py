"""What docstrings say in reStructuredText, said in Markdown for the site: roles, literal blocks, doctests."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|data|attr|mod):`~?(?P<name>[\w.]+)`")
LITERAL_FOLLOWS = re.compile(r"::$", re.MULTILINE)
DOCTEST = re.compile(r"^(?P<indent> *)>>> .*?(?=\n *\n|\Z)", re.DOTALL | re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = in_markdown(obj.docstring.value)


def in_markdown(text: str) -> str:
    """A docstring with its roles as code, and its doctests and literal blocks as such."""
    text = ROLE.sub(lambda found: f"`{found['name'].rpartition('.')[2]}`", text)
    return DOCTEST.sub(fenced, LITERAL_FOLLOWS.sub(":", text))


def fenced(found: re.Match[str]) -> str:
    """A doctest between fences, without its prompts' indentation changed."""
    indent = found["indent"]
    return f"{indent}```pycon\n{found[0]}\n{indent}```"
