"""Running a page of the documentation: its blocks of Python and shell, in order, in an empty directory."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import field, frozen

from scalekv_core.cli import main
from scalekv_core.plugins import registry as registries

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r'^```(?P<language>[\w-]+)(?: title="(?P<title>[^"]+)")?[^\n]*\n(?P<text>.*?)^```', re.DOTALL | re.MULTILINE
)
RUN = ("python", "shell", "console")
ELSEWHERE = ("git", "python", "python3", "source", ".")
"""Commands that prepare a machine; here they have nothing to do."""


@frozen
class Block:
    """A fenced block of a page.

    Attributes:
        language: after the fence.
        text: between the fences.
        title: the file that it is the text of, if it is one.
    """

    language: str
    text: str
    title: str | None = None

    @property
    def runs(self) -> bool:
        """Whether it is run, or written to a file that what follows needs."""
        return self.language in RUN or self.title is not None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    return [Block(found["language"], found["text"], found["title"]) for found in BLOCK.finditer(page.read_text())]


@frozen
class Runner:
    """Runs blocks: Python in one namespace, ``scalekv`` in this process, ``pytest`` in another, ``pip install -e`` without pip.

    Attributes:
        capsys, monkeypatch: of the test.
        folder: an empty directory, the current one.
        namespace: of the Python blocks.
    """

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    folder: Path
    namespace: dict[str, object] = field(factory=lambda: {"__name__": "docs"})

    def run(self, block: Block, source: Path) -> None:
        """Runs a block, or writes the file that it is."""
        if block.title is not None:
            self.write(Path(block.title), block.text)
        elif block.language == "python":
            exec(compile(block.text, str(source), "exec"), self.namespace)
        elif block.language == "shell":
            for line in logical_lines(block.text):
                code, said = self.command(line)
                assert code == 0, f"{line}\n{said}"
        else:
            for line, wanted in conversations(block.text):
                _, said = self.command(line)
                assert agrees(wanted, said), f"$ {line}\n{said}\n-- the page says --\n{wanted}"

    def write(self, path: Path, text: str) -> None:
        """Writes a file; what a module of that name was before is forgotten, as the next process would."""
        path.write_text(text)
        sys.modules.pop(path.stem, None)
        importlib.invalidate_caches()
        registries.shared_registry.cache_clear()

    def command(self, line: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        name, *arguments = shlex.split(line, comments=True)
        if name == "scalekv":
            return self.scalekv(arguments)
        if name == "pytest":
            done = subprocess.run(
                [sys.executable, "-m", name, *arguments], capture_output=True, text=True, env=self.env()
            )
            return done.returncode, done.stdout + done.stderr
        if name == "cd":
            self.monkeypatch.chdir(arguments[0])
        elif name == "pip":
            self.install(arguments)
        elif name == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        else:
            assert name in ELSEWHERE, f"nobody knows how to test: {line}"
        return 0, ""

    def scalekv(self, arguments: list[str]) -> tuple[int, str]:
        """What the command line says, to stdout and to stderr."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        captured = self.capsys.readouterr()
        return int(stopped.value.code or 0), captured.err + captured.out

    def install(self, arguments: list[str]) -> None:
        """What an editable install of the plugin in the current directory does to a process."""
        if "-e" in arguments and Path("pyproject.toml").exists():
            install(Path.cwd(), self.folder / "site", self.monkeypatch)

    def env(self) -> dict[str, str]:
        """Where another process finds what was installed."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "80"}


def install(plugin: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a plugin's folder known as pip would: its metadata and entry points in a directory of sys.path."""
    project = (plugin / "pyproject.toml").read_text()
    name, version = (re.search(rf'^{key} = "(.*)"$', project, re.MULTILINE)[1] for key in ("name", "version"))
    points = re.search(r"^\[project\.entry-points\.scalekv\]\n((?:[\w-]+ = .*\n)+)", project, re.MULTILINE)[1]
    metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text("[scalekv]\n" + points.replace('"', ""))
    for place in (plugin, site):
        monkeypatch.syspath_prepend(place)
    registries.shared_registry.cache_clear()


def forget_plugins(before: set[str], *folders: Path) -> None:
    """Forgets modules that were imported since from these folders, and what the registry knows of them."""
    for name in [name for name in sys.modules if name not in before]:
        if (file := getattr(sys.modules[name], "__file__", None)) and set(folders) & set(Path(file).parents):
            del sys.modules[name]
    registries.shared_registry.cache_clear()


def logical_lines(text: str) -> Iterator[str]:
    """The commands of a shell block; a backslash goes on in the next line, and what begins with # is a remark."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line


def conversations(text: str) -> Iterator[tuple[str, str]]:
    """(command, what it says) of a console block."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, said = part.partition("\n")
        yield command, said


def agrees(wanted: str, said: str) -> bool:
    """Whether what was said is what the page shows; ``...`` stands for anything, and blank space for any other.

    >>> agrees("a ... d", "a  b\\nc d"), agrees("a ... e", "a b c d")
    (True, False)
    """
    parts = [r"\s+".join(map(re.escape, part.split())) for part in wanted.split("...")]
    return re.fullmatch(r"\s*" + r".*".join(rf"\s*{part}\s*" for part in parts) + r"\s*", said, re.DOTALL) is not None
