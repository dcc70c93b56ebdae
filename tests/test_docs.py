"""Every code block of every page of the documentation runs, and every hook and name is described."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from _pytest.mark import ParameterSet

import scalekv_core
from scalekv_core.plugins import hookspecs
from scalekv_core.plugins.offers import HOOKS
from scalekv_core.testing.kinds import KINDS, checks_of

from .pages import ROOT, Block, Runner, blocks, forget_plugins

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("reference/*.md"))]
LINKING = [
    *PAGES,
    ROOT / "tests" / "data" / "README.md",
    *sorted(ROOT.glob("policies/**/*.md")),
    *sorted(ROOT.glob("adapters/**/*.md")),
]
NAMED = {page: str(page.relative_to(ROOT)) for page in LINKING}
NOT_RUN = {"text", "toml"}
LONG = {
    "docs/memory.md",
    "docs/tutorial.md",
    "docs/method.md",
    "docs/index.md",
    "docs/testing-a-plugin.md",
    "docs/policies.md",
    "docs/results.md",
}
"""Pages whose blocks or tables take more than ten seconds of a processor: run by ``make test-all``."""


def pages(which: Iterable[Path]) -> list[ParameterSet]:
    """Pages as parameters of a test that runs them."""
    marks = {page: [pytest.mark.thorough] * (NAMED[page] in LONG) for page in which}
    return [pytest.param(page, marks=marks[page], id=NAMED[page]) for page in marks]


@pytest.fixture
def runner(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Runner]:
    """Runs blocks in an empty directory; what they install is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    before = set(sys.modules)
    yield Runner(capsys, monkeypatch, tmp_path)
    forget_plugins(before, tmp_path)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """What writes the tables."""
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", pages(page for page in PAGES if any(b.runs for b in blocks(page))))
def test_blocks_run(page: Path, runner: Runner) -> None:
    """The blocks of a page run, in order, in one namespace and one directory; outputs that it shows are what comes out."""
    for block in blocks(page):
        if block.runs:
            runner.run(block, page)


@pytest.mark.parametrize("page", PAGES, ids=NAMED.get)
def test_blocks_say_what_they_are(page: Path) -> None:
    """A block is run, or is marked as text or data; none escapes by a misspelt language."""
    unknown = {block.language for block in blocks(page) if not block.runs} - NOT_RUN

    assert set() == unknown
    assert page.read_text().count("\n```") == 2 * len(blocks(page)) - page.read_text().startswith("```")


@pytest.mark.parametrize("hook", HOOKS.values())
def test_every_hook_is_described(hook: str) -> None:
    """docs/hooks.md has a section for the hook, which begins with its exact signature."""
    signature = f"{hook}{inspect.signature(getattr(hookspecs, hook))}".replace("'", "")

    assert f"## {hook}\n\n`{signature}`\n" in (DOCS / "hooks.md").read_text()


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", DOCS / "design.md"], ids=NAMED.get)
def test_the_picture_shows_every_package(page: Path) -> None:
    """The text picture has the packages of scalekv_core, and no others."""
    picture = next(block.text for block in blocks(page) if block.text.startswith("scalekv_core/"))
    shown = re.findall(r"^  (\w+)", picture.partition("policies/")[0], re.MULTILINE)
    packages = {path.parent.name for path in (ROOT / "scalekv_core").glob("*/__init__.py")}

    assert sorted({*packages, "errors"}) == sorted(shown)


def test_packages_import_those_above_them() -> None:
    """The picture has the packages in the order of imports: each imports only itself and packages above it."""
    picture = next(block.text for block in blocks(DOCS / "design.md") if block.text.startswith("scalekv_core/"))
    above = [name for name in re.findall(r"^  (\w+)(?:  (ops))?", picture, re.MULTILINE) for name in name if name]
    wrong = []
    for path in (ROOT / "scalekv_core").rglob("*.py"):
        own = path.relative_to(ROOT / "scalekv_core").parts[0].removesuffix(".py")
        for name in re.findall(r"^ *(?:from|import) scalekv_core(?:\.| import )(\w+)", path.read_text(), re.MULTILINE):
            if own in above and name in above and above.index(name) > above.index(own):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")

    assert [] == wrong


def test_every_public_name_is_in_the_reference() -> None:
    """What can be imported from scalekv_core is on a page of the reference."""
    text = "".join(page.read_text() for page in DOCS.glob("reference/*.md"))
    listed = {found.rpartition(".")[2] for found in re.findall(r"scalekv_core\.[\w.]+", text)}
    errors = {name for name, value in vars(scalekv_core.errors).items() if inspect.isclass(value)}

    assert set() == set(scalekv_core.__all__) - listed - errors


@pytest.mark.parametrize("page", pages(PAGES))
def test_tables_are_up_to_date(page: Path, tables: ModuleType) -> None:
    """Tables from the registry are what ``make tables`` would write; columns of figures are aligned to the right."""
    assert tables.filled(page.read_text()) == page.read_text(), "run: make tables"


@pytest.mark.parametrize("page", LINKING, ids=NAMED.get)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links point to files that exist, and to headings that are there."""
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=NAMED.get)
def test_files_that_are_named_exist(page: Path) -> None:
    """A path in a sentence, from the root of the repository or from scalekv_core, leads to a file or folder."""
    named = re.findall(r"(?<!`)`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|toml))?)`", page.read_text())
    places = (ROOT, ROOT / "scalekv_core", page.parent)
    outputs = ("build/", "demo/", "site/", "infinity_8b_weights/", "flan-t5-xl/", ".../")
    outputs += ("llm/", "tokenizer/", "Qwen2-VL-1.5B-Instruct/", "infinitystar_8b_")

    assert [] == [
        path for path in named if not path.startswith(outputs) and not any((p / path).exists() for p in places)
    ]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


CHECKS = {check.name for kind in KINDS for check in checks_of(kind)}


def test_every_check_is_among_the_invariants() -> None:
    """With what it guarantees; and every check that the page names exists."""
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", (DOCS / "invariants.md").read_text()))

    assert CHECKS == named - {"machine_for"}


COMMANDS = sorted(
    {
        (page, found["folders"] or "", found["module"])
        for page in LINKING
        for found in re.finditer(r"(?:PYTHONPATH=(?P<folders>\S+) )?python -m (?P<module>[\w.]+)", page.read_text())
    },
    key=str,
)


@pytest.mark.thorough
@pytest.mark.parametrize(("page", "folders", "module"), COMMANDS, ids=[f"{NAMED[p]}-{m}" for p, _, m in COMMANDS])
def test_a_module_runs_from_the_root_of_the_repository(page: Path, folders: str, module: str) -> None:
    """As the page writes it, without whatever this process has on its path."""
    path = [str(ROOT), str(ROOT / "policies"), *(str(ROOT / folder) for folder in folders.split(":") if folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, env=environment, capture_output=True)

    assert 0 == done.returncode, done.stderr.decode()


def test_every_page_is_in_the_navigation() -> None:
    """Every page is in the navigation of the site; readers find no others."""
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)

    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents)


def test_a_block_that_fails_is_noticed(runner: Runner, tmp_path: Path) -> None:
    """The tests above look at something."""
    for block in (
        Block("python", "assert 1 == 2\n"),
        Block("shell", "scalekv generate --policy nobody\n"),
        Block("console", "$ scalekv --version\nscalekv 99\n"),
        Block("shell", "make nothing\n"),
        Block("shell", "rm -rf site\n"),
    ):
        with pytest.raises(AssertionError):
            runner.run(block, tmp_path)
