"""``scalekv recommend``: of a study, the policy, budget and codec with the best fidelity that fits into so much memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def recommend(
    study: Annotated[
        Path,
        typer.Argument(metavar="STUDY", help="Folder of a study, or a model's name for the study that ships with it."),
    ],
    memory: Annotated[str, typer.Option("--memory", metavar="SIZE", help="Memory for the cache of a batch: 4GiB.")],
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", metavar="NAME", help="What is called best. [dim]default: the study's last metric[/dim]"
        ),
    ] = None,
) -> None:
    """Name the policy, budget and codec with the best fidelity whose cache fits, by the peak that was measured.

    Shows the runner-up and the best setting for half the memory beside it.
    """
    from scalekv_core.cli.study_tables import tell_recommendation

    tell_recommendation(study, memory, metric)
