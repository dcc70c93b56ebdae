"""``scalekv report``: a study as one page, to be read offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of a study, as scalekv compare writes it.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.html", help="Where it goes. [dim]default: report.html in the study's folder[/dim]"
        ),
    ] = None,
) -> None:
    """Write a study as one HTML page: frontiers, ranking, divergence by scale, images with difference maps.

    The page needs no network and can be read while the study still runs.
    """
    from scalekv_core.cli import console
    from scalekv_core.cli.installed import the_registry
    from scalekv_core.compare.page.write import write_page
    from scalekv_core.compare.store import Store

    store = Store.open(study)
    file = out or store.folder / "report.html"
    write_page(store, file, the_registry())
    console.say(f"report: {file}")
