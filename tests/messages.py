"""Every message that a user can meet, in one file that a person can read in one go: ``tests/data/messages.txt``.

The tests provoke the messages; ``python -m tests.messages`` runs them and writes down what they provoke. It takes
arguments of pytest, such as ``python -m tests.messages tests/cache -k codec``: then it renews what those tests provoke,
and keeps the rest.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import pytest
import typer
from attrs import define, field

from scalekv_core.errors import ScaleKVError
from scalekv_core.testing.common import NotApplicable
from scalekv_core.testing.faults import in_words
from tests.pages import ROOT
from tests.raise_sites import Site, sites

if TYPE_CHECKING:
    from scalekv_core.testing.trying import Trial

PAGE = Path(__file__).parent / "data" / "messages.txt"
MOST = 2
"""How many messages of one place are written down, where the text depends on more than numbers and names."""
Found = dict[tuple[str, str], set[str]]
"""{(module, function): messages}."""
MODULE = re.compile(r"^\S+\.py$")
ENTRY = re.compile(r"^  (?P<function>\w+): (?P<message>.*)$")


def read_page() -> Found:
    """What is in the file."""
    found: Found = defaultdict(set)
    module = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        module = line if MODULE.match(line) else module
        entry = ENTRY.match(line)
        if entry is not None and not entry["message"].startswith("(not provoked)"):
            found[module, entry["function"]].add(entry["message"])
    return found


def write_page(found: Found) -> None:
    """One paragraph for each module, one line for each message."""
    paragraphs = defaultdict(list)
    for site in sites():
        said = [text for text in _said_in(site, found) if site.wrote(text)]
        shown = _different(sorted(said, key=_order)) or [f"(not provoked) {site.template}"]
        paragraphs[site.module] += [f"  {site.function}: {text}" for text in shown]
    texts = ("\n".join([module, *dict.fromkeys(lines)]) for module, lines in paragraphs.items() if lines)
    PAGE.write_text("\n\n".join(texts) + "\n", encoding="utf-8")


def _said_in(site: Site, found: Found) -> set[str]:
    """The messages of its function; of a function that is new in its module those of the same name elsewhere, since it may
    have moved."""
    own = found.get((site.module, site.function))
    moved = (texts for (_, function), texts in found.items() if function == site.function)
    return set().union(*moved) if own is None else own


def _order(text: str) -> tuple[int, str]:
    return len(text), text


def _different(messages: list[str]) -> list[str]:
    """The first few that differ in more than numbers and quoted names."""
    first: dict[str, str] = {}
    for text in messages:
        first.setdefault(re.sub(r"'[^']*'|\(.*?\)|\S*[\d.A-Z_\\/]\S*", "", text), text)
    return list(first.values())[:MOST]


@define
class Recorder:
    """A pytest plugin that remembers where each error was made, and what it said."""

    found: Found = field(factory=lambda: defaultdict(set))
    _sites: dict[str, list[Site]] = field(factory=lambda: defaultdict(list))

    def __attrs_post_init__(self) -> None:
        for site in sites():
            self._sites[site.module].append(site)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Watches every error of scalekv as it is made, and every check as it fails."""
        from scalekv_core.testing.trying import Trial  # here, since pytest must see Hypothesis imported

        for error in (ScaleKVError, NotApplicable, typer.BadParameter):
            error.__init__ = self._made(error.__init__)  # type: ignore[method-assign]
        Trial._failed = self._failed(Trial._failed)  # type: ignore[method-assign]

    def _made(self, init: Callable[..., None]) -> Callable[..., None]:
        @wraps(init)
        def made(error: Exception, *args: Any, **kwargs: Any) -> None:
            init(error, *args, **kwargs)
            text = str(args[-1]) if args else ""
            self._note(text, _frames(sys._getframe(1)), stop=True)
            for cause in _causes(sys.exc_info()[1]):
                self._note(str(cause), _traceback(cause.__traceback__))

        return made

    def _failed(self, failed: Callable[..., None]) -> Callable[..., None]:
        @wraps(failed)
        def told(trial: Trial, case: Any, error: Exception) -> None:
            failed(trial, case, error)
            for cause in _causes(error):
                self._note(in_words(cause), _traceback(cause.__traceback__))

        return told

    def _note(self, text: str, lines: Iterator[tuple[str, int]], *, stop: bool = False) -> None:
        for file, line in lines:
            for site in self._sites.get(file.removeprefix(f"{ROOT}/"), ()):
                if site.first <= line <= site.last and site.wrote(text):
                    self.found[site.module, site.function].add(anonymous(text))
                    if stop:
                        return


def _frames(frame: FrameType | None) -> Iterator[tuple[str, int]]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back


def _traceback(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and the members of groups."""
    if error is not None:
        yield error
        for inner in (error.__cause__ or error.__context__, *getattr(error, "exceptions", ())):
            yield from _causes(inner)


def anonymous(text: str) -> str:
    """A message without what differs from run to run and from machine to machine: folders and addresses."""
    text = " ".join(text.split())
    text = text.replace(f"{ROOT}/", "").replace(str(ROOT), ".").replace(os.path.expanduser("~"), "~")
    text = re.sub(rf"{tempfile.gettempdir()}/(pytest-of-[^/]+/pytest-\d+/[^/'\" ]+|[^/'\" ]+)", "DIR", text)
    return re.sub(r"0x[0-9a-f]{6,}", "0x...", text)


def main(arguments: list[str]) -> None:
    """Runs tests and renews the file with what they provoke."""
    os.environ.setdefault("HYPOTHESIS_PROFILE", "same")
    recorder = Recorder()
    pytest.main(["-q", "-p", "no:cacheprovider", *(arguments or ["-m", "not cuda"])], plugins=[recorder])
    if not recorder.found:  # --help, or no such test
        return
    found: Found = defaultdict(set)
    if arguments:
        for place, messages in read_page().items():
            found[place] |= messages
    for place, messages in recorder.found.items():
        found[place] |= messages
    write_page(found)


if __name__ == "__main__":
    main(sys.argv[1:])
