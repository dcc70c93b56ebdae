"""The words of this project: documentation, docstrings, comments, help and messages use the terms of the field.

One name for one thing, and no private words. A pattern is searched in prose only: Markdown without code, and the comments
and strings of the packages, and the docstrings of the tests. CONTRIBUTING.md refers to this list.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from .pages import ROOT

PACKAGES = ("scalekv_core", "policies", "adapters")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "tests/data/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(page for package in PACKAGES for page in sorted((ROOT / package).rglob("*.md"))),
    *sorted((ROOT / "scalekv_core" / "cli" / "plugin_template").glob("*.in")),
]
MODULES = [path for package in (*PACKAGES, "docs") for path in sorted((ROOT / package).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
WORDS = {
    r"yardsticks?": "unmodified, baseline",
    r"rehears\w*": "dry run",
    r"stated profiles?|profile is stated": "assumed profile",
    r"remed(y|ies)": "suggestion",
    r"specimens?": "test model, case",
    r"lanes?": "stream",
    r"(?<!no )rooms? for|rooms? of scalekv_core|in the house|the shel(f|ves)|door sign": "package, memory",
    r"giv(e|es|en|ing) up|gave up": "evicted",
    r"(the|a|an|each|every|any|one|last|after|before) cuts?|cut away|is cut|are cut|cuts": "eviction, evicted",
    r"(tokens?|what|which|that|not|others) (to )?stays?|stays of": "kept",
    r"nobody|whoever|none of each other's": "say who",
    r"draws?|drew|drawn|drawing|drawings": "generate",
    r"hoped for": "target",
    r"in company": "batched",
    r"promises? (kept|broken|made|not made)|(keeps?|kept|breaks?|broke|broken) (its |a |any |every |all |the )?promises?": "check: passed, failed",
    r"held to": "checked",
    r"the whole cache": "unmodified",
    r"wants|is wanted of": "needs",
    r"as ever|worked out on paper|on its word": "say it directly",
    r"seen and left|what was said of|as good as free": "say it directly",
}
"""{what is not written, as a pattern of whole words: what is written instead}."""

PATTERN = re.compile("|".join(rf"\b(?:{word})\b" for word in WORDS), re.IGNORECASE)
CODE = re.compile(r"^```.*?^```|``.*?``|`[^`]*`|<!--.*?-->|\]\([^)]*\)", re.DOTALL | re.MULTILINE)
NAME = re.compile(r"""["'][\w.:-]*["']""")
VALUE = re.compile(r"\{[^{}]*\}")
ALLOWED = {
    "adapters/recipes/infinity_tiny/drawings.py": {"drawings"},
    "scalekv_core/bench/plot.py": {"drawn"},
    "scalekv_core/cli/explain.py": {"draw"},
    "scalekv_core/cli/record.py": {"drawn"},
    "scalekv_core/testing/conformance.py": {"specimens"},
    "scalekv_core/testing/running.py": {"specimen"},
    "scalekv_core/testing/testmodels.py": {"draw"},
    "tests/adapters/hart/official_standin.py": {"drawn"},
    "tests/adapters/infinity/official_standin.py": {"drawn"},
    "tests/adapters/var/official_standin.py": {"drawn"},
    "tests/recipes/test_infinity_tiny_drawings.py": {"drawing", "drawings"},
}
"""{file: words that are names in its code or former names of options}."""


def prose_of_page(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of a page without its code."""
    without = CODE.sub(lambda found: "\n" * found[0].count("\n"), text)
    yield from enumerate(without.splitlines(), 1)


def prose_of_module(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the comments and strings of a module without the code in them."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING and NAME.fullmatch(token.string):
            continue
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == getattr(tokenize, "FSTRING_MIDDLE", None):
            text = (
                VALUE.sub("", token.string) if token.string[0] in "fF" else token.string
            )  # one token before Python 3.12
            without = CODE.sub(lambda found: "\n" * found[0].count("\n"), text)
            yield from enumerate(without.splitlines(), token.start[0])


def prose_of_test(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the docstrings of a test module without the code in them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            without = CODE.sub(lambda found: "\n" * found[0].count("\n"), node.value.value)
            yield from enumerate(without.splitlines(), node.lineno)


def found_in(path: Path) -> list[str]:
    """Every word of the list in a file, with its line and what to write instead."""
    prose = prose_of_test if path in TESTS else prose_of_module if path.suffix == ".py" else prose_of_page
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
    return [
        f"{path.relative_to(ROOT)}:{line}: {found[0]!r} (write: {instead(found[0])})"
        for line, text in prose(path.read_text(encoding="utf-8"))
        for found in PATTERN.finditer(text)
        if found[0].lower() not in allowed
    ]


def instead(word: str) -> str:
    """What is written instead of a word."""
    return next(other for pattern, other in WORDS.items() if re.fullmatch(pattern, word, re.IGNORECASE))


@pytest.mark.parametrize("path", [*PAGES, *MODULES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_prose_uses_the_terms_of_the_field(path: Path) -> None:
    """No word of the list is in the prose of a page or module."""
    assert [] == found_in(path)


def test_docstrings_of_tests_use_the_terms_of_the_field() -> None:
    """No word of the list is in the docstring of a test or its helpers."""
    assert [] == [found for path in TESTS for found in found_in(path)]


def test_the_list_is_searched(tmp_path: Path) -> None:
    """A forbidden word is found in text, docstrings, comments and messages, and not in code."""
    assert ["the cut", "given up"] == [
        m[0] for _, line in prose_of_page("the cut\n`the cut`\nis given up") for m in PATTERN.finditer(line)
    ]
    module = 'def draw():\n    """Draws."""  # drawn\n    raise ValueError(f"{draw} the specimen")\n'
    assert ["Draws", "drawn", "specimen"] == [
        m[0] for _, line in prose_of_module(module) for m in PATTERN.finditer(line)
    ]
    assert ["Draws"] == [m[0] for _, line in prose_of_test(module) for m in PATTERN.finditer(line)]
