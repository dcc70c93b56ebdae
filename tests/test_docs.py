"""Documentation that nobody runs rots: every Python block of every page is executed, and every hook is described."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from scalekv_core import hookspecs
from scalekv_core.registry import HOOKS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page run, in order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("hook", HOOKS.values())
def test_every_hook_is_described(hook: str) -> None:
    """docs/hooks.md has a heading that is exactly the hook's signature."""
    signature = f"## {hook}{inspect.signature(getattr(hookspecs, hook))}".replace("'", "")

    assert signature in (ROOT / "docs" / "hooks.md").read_text().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links point to files that exist."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [] == [link for link in links if not (page.parent / link).exists()]
