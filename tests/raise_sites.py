"""Where the packages raise an error or let a check fail: each place, and the pattern of the message that it writes.

Found in the source, so that no message can be forgotten: ``tests/test_messages.py`` compares these places with the file of
messages.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from attrs import frozen

from tests.pages import ROOT

PACKAGES = ("scalekv_core", "policies/scalekv_policies", "adapters/scalekv_adapters")
CHECKS = "scalekv_core/testing/"
"""Where the text of an assert is what ``scalekv check`` prints."""
SILENT = {"typer.Exit", "AttributeError", "IsADirectoryError", "SmallEnough"}
"""Exceptions whose text no user reads: exit codes, Python's protocols, and what the next lines catch."""
OF_CHECKS = {"assert", "AssertionError", "NotApplicable", "NeverApplies", "Refused", "Blocked"}
"""How the kit says that a check failed or does not apply."""
HELPERS = {"unknown_name": "no {0} is called {1}", "missing_extra": "{2} needs {0}, which is not installed"}
"""Functions of ``errors`` that write a message around their arguments."""


@frozen
class Site:
    """One ``raise`` or ``assert`` with a message.

    Attributes:
        module: path of the file from the root of the repository.
        function: the innermost function that it is in.
        kind: the exception's name, or ``assert``.
        first, last: its lines.
        pattern: matches every message that it can write.
    """

    module: str
    function: str
    kind: str
    first: int
    last: int
    pattern: str

    @property
    def is_of_a_check(self) -> bool:
        """Whether it says why a check failed or does not apply, which is no error of a user."""
        return self.kind in OF_CHECKS

    @property
    def template(self) -> str:
        """The text with dots for what is filled in."""
        return re.sub(r"\\(.)", r"\1", self.pattern.replace(".*", "..."))

    def wrote(self, message: str) -> bool:
        """Whether this message can be from here."""
        return re.search(self.pattern, message, re.DOTALL) is not None


def sites() -> list[Site]:
    """All places, in the order of files and lines."""
    modules = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return [site for path in modules for site in _sites_of(path.relative_to(ROOT).as_posix())]


def _sites_of(module: str) -> Iterator[Site]:
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    for node, function in _with_function(tree, ""):
        text = _text(node, checks=module.startswith(CHECKS))
        if text is not None:
            assert isinstance(node, ast.stmt)
            kind = ast.unparse(node.exc.func) if isinstance(node, ast.Raise) else "assert"  # type: ignore[union-attr]
            yield Site(module, function, kind, node.lineno, node.end_lineno or node.lineno, text)


def _with_function(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        yield child, function
        yield from _with_function(child, child.name if isinstance(child, ast.FunctionDef) else function)


def _text(node: ast.AST, *, checks: bool) -> str | None:
    """The pattern of what a statement says, or None if it says nothing to a user."""
    if isinstance(node, ast.Assert) and node.msg is not None and checks:
        return _pattern(node.msg)
    if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
        return None
    name = ast.unparse(node.exc.func)
    if name in SILENT:
        return None
    if name in HELPERS:
        escaped = re.sub(r"\\([{}])", r"\1", re.escape(HELPERS[name]))
        return escaped.format(*map(_pattern, node.exc.args))
    return _pattern(node.exc.args[-1]) if node.exc.args else ""


def _pattern(text: ast.expr) -> str:
    """What is literal in an expression, with anything between."""
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        return re.escape(text.value)
    if isinstance(text, ast.JoinedStr):
        return "".join(map(_pattern, text.values))
    if isinstance(text, ast.BinOp) and isinstance(text.op, ast.Add):
        return _pattern(text.left) + _pattern(text.right)
    return ".*"
