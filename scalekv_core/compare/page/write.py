"""Writes the page of a study."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scalekv_core.compare.page.contents import Page
from scalekv_core.compare.page.sheet import AMPLIFY
from scalekv_core.errors import InputError, missing_extra

HERE = Path(__file__).parent
SCRIPTS = ("table.js", "plots.js", "page.js")


def write_page(page: Page, file: Path) -> None:
    """One self-contained HTML file, written aside and renamed: what was there before remains until the new one is whole.

    Raises:
        MissingExtra: jinja2 or plotly is not installed.
        InputError: the file cannot be written.
    """
    pieces = _template().generate(
        page=page,
        data=json.dumps(page.data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/"),
        style=_read("page.css"),
        scripts=[_read(name) for name in SCRIPTS],
        plotly=_plots(),
        amplify=AMPLIFY,
    )
    _write(pieces, file)


def _write(pieces: Iterable[str], file: Path) -> None:
    aside = file.with_suffix(f"{file.suffix}.{os.getpid()}.part")
    try:
        with aside.open("w", encoding="utf-8") as out:
            out.writelines(pieces)
        aside.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise InputError(f"report {file} cannot be written: {error.strerror}; the study is unchanged") from error


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise missing_extra("jinja2", "report", "scalekv report") from error
    loader = jinja2.FileSystemLoader(HERE)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("page.html.j2")


def _plots() -> str:
    """The source of plotly, so that the page needs no network."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise missing_extra("plotly", "report", "scalekv report") from error
    source: str = get_plotlyjs()
    return source
