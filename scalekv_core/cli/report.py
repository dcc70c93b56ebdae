"""``scalekv report``: a study as one page to be read offline, or several studies of one protocol as a leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    studies: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY...",
            help="Folders of studies, as scalekv compare writes them; a model's name is the study that ships with it.",
        ),
    ],
    *,
    leaderboard: Annotated[
        bool, typer.Option("--leaderboard", help="Ranks several studies of one protocol together.")
    ] = False,
    protocol: Annotated[
        Path | None,
        typer.Option("--protocol", metavar="FILE.toml", help="Study file that says what must be equal."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.html",
            help="Where it goes. [dim]default: report.html in the first study's folder; MODEL.html for one that ships[/dim]",
        ),
    ] = None,
) -> None:
    """Write a study as one HTML page: frontiers, ranking, divergence by scale, images with difference maps.

    The page needs no network and can be read while the study still runs.
    """
    from scalekv_core.cli import console, writing
    from scalekv_core.cli.installed import the_registry
    from scalekv_core.compare.leaderboard import check_protocol, submissions
    from scalekv_core.compare.page.contents import leaderboard_page, page_of
    from scalekv_core.compare.page.write import write_page
    from scalekv_core.errors import InputError

    if out is not None:
        writing.check_file(out, "--out")
    found = submissions(studies, the_registry())
    if not leaderboard and (len(found) > 1 or protocol is not None):
        raise InputError("several studies or --protocol need --leaderboard; add it")
    if leaderboard:
        check_protocol(found, protocol)
        page = leaderboard_page(found, the_registry(), protocol="" if protocol is None else protocol.name)
    else:
        page = page_of(found[0].store, the_registry())
    default = "leaderboard.html" if leaderboard else "report.html"
    if not studies[0].is_dir():  # one file, or a study that ships: the page does not go beside it
        default = default if leaderboard else f"{found[0].name}.html"
    file = out or (studies[0] if studies[0].is_dir() else Path()) / default
    write_page(page, file)
    console.say(f"report: {file}")
