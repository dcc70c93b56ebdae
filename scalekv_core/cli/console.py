"""What is printed: results on stdout, errors and progress on stderr, one line each."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from textwrap import wrap

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scalekv_core.cli.interrupts import stop_if_noticed
from scalekv_core.errors import ScaleKVError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_UNSEEN = ("Cc", "Zl", "Zp")
"""Categories of characters that end a line, or move the cursor."""


class OutputError(ScaleKVError):
    """Standard output cannot be written to."""


def complain(message: str) -> None:
    """One line on stderr, never wrapped, so that it can be read by a program and found by a search.

    A path or a prompt may hold line breaks and other control characters; they are written as Python writes them.
    """
    line = "".join(repr(letter)[1:-1] if unicodedata.category(letter) in _UNSEEN else letter for letter in message)
    print(f"scalekv: {line}", file=sys.stderr)


def say(line: str = "") -> None:
    """One line on stdout, wrapped where a terminal needs it."""
    out.print(Text(line))


def say_below(line: str) -> None:
    """One line on stdout that belongs to the heading above it: two columns in, also where it is wrapped."""
    out.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


def heading(line: str) -> None:
    """A line that opens a part of the output."""
    out.print()
    out.print(Text(line, style="bold"))


def table(*columns: str, text: Collection[str] = ()) -> Table:
    """A table without noise: numbers to the right and never broken.

    Args:
        columns: their titles.
        text: the titles of those that hold words, which stand to the left.
    """
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        made.add_column(Text(name), justify="left" if name in text else "right", no_wrap=name not in text)
    return made


def row(made: Table, *cells: object) -> None:
    """Adds a row; text is shown as it is, without markup."""
    made.add_row(*(Text(str(cell)) for cell in cells))


def pairs(rows: Iterable[tuple[str, object]], *, indent: int = 2) -> None:
    """Names and texts in two columns; a long text wraps below itself."""
    texts = [(name, str(text)) for name, text in rows]
    left = max((cell_len(name) for name, _ in texts), default=0)
    room = max(1, out.width - indent - left - 2)
    lines = []
    for name, text in texts:
        pieces = [piece for line in text.splitlines() for piece in wrap(line, room, break_on_hyphens=False)] or [""]
        names = [name, *[""] * (len(pieces) - 1)]
        lines += [
            f"{' ' * indent}{set_cell_size(one, left)}  {piece}".rstrip()
            for one, piece in zip(names, pieces, strict=True)
        ]
    if lines:
        out.print(Text("\n".join(lines)), soft_wrap=True)


def show(made: Table) -> None:
    """Prints a table; where the terminal is narrower, each row as a block of its own, so that no cell is truncated."""
    if _needed_width(made) <= out.width:
        out.print(made)
        return
    titles = [str(column.header) for column in made.columns]
    for cells in zip(*(column.cells for column in made.columns), strict=True):
        texts = [str(cell) for cell in cells]
        say(": ".join(filter(None, (titles[0], texts[0]))))
        pairs((title, text) for title, text in zip(titles[1:], texts[1:], strict=True) if text)


def _needed_width(made: Table) -> int:
    """Columns of the terminal that a table takes without cutting a cell; words of a text may stand below each other."""
    widths = []
    for column in made.columns:
        texts = [str(column.header), *(str(cell) for cell in column.cells)]
        pieces = texts if column.no_wrap else [word for text in texts for word in text.split()]
        widths.append(max(map(cell_len, pieces), default=0))
    gap = 1 + made.padding[1]  # a blank of the box, and the padding on the right
    return sum(widths) + gap * (len(widths) - 1)


@contextlib.contextmanager
def naming(kept: str) -> Iterator[None]:
    """If standard output cannot be written to, the error says what is kept where."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot print ({error.strerror}); {kept}") from error


@contextlib.contextmanager
def busy(doing: str) -> Iterator[None]:
    """Shows on a terminal that something is going on, and nothing elsewhere; KeyboardInterrupt if Ctrl-C got lost before."""
    stop_if_noticed()
    if not err.is_terminal:
        yield
        return
    with err.status(Text(doing)):
        yield


@contextlib.contextmanager
def progress(doing: str, nbytes: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, and nothing elsewhere; gives a function that is told the bytes that were done."""
    if not err.is_terminal:
        yield lambda more: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}", markup=False), *columns, console=err, transient=True) as bar:
        task = bar.add_task(doing, total=nbytes)
        yield lambda more: bar.advance(task, more)
