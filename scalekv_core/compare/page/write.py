"""Writes the page of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scalekv_core.compare.page.contents import AMPLIFY, Page
from scalekv_core.errors import InputError, missing_extra

HERE = Path(__file__).parent


def write_page(page: Page, file: Path) -> None:
    """One self-contained HTML file.

    Raises:
        MissingExtra: jinja2 or plotly is not installed.
        InputError: the file cannot be written.
    """
    text = _template().render(
        page=page,
        data=json.dumps(page.data, allow_nan=False).replace("</", "<\\/"),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        plotly=_plots(),
        amplify=AMPLIFY,
    )
    aside = file.with_suffix(f"{file.suffix}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(file)
    except OSError as error:
        raise InputError(f"report {file} cannot be written: {error.strerror}; the study is unchanged") from error


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise missing_extra("jinja2", "report", "scalekv report") from error
    loader = jinja2.FileSystemLoader(HERE)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "page.html.j2"
    )


def _plots() -> str:
    """The source of plotly, so that the page needs no network."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise missing_extra("plotly", "report", "scalekv report") from error
    source: str = get_plotlyjs()
    return source
