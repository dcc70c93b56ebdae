"""The tables of ``scalekv explain --text``, readable on 80 columns with up to 13 maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scalekv_core.cli import console
from scalekv_core.compare.explain import role_share
from scalekv_core.shapes.geometry import format_bytes

if TYPE_CHECKING:
    from scalekv_core.compare.explain import Explanation
    from scalekv_core.planning.planner import Planned

ROOMY = 10
"""Maps up to which numbers stand two spaces apart."""


def print_plan(planned: Planned) -> None:
    """Bytes in one line; tokens that each layer holds after each scale; roles."""
    weighs, schedule = planned.footprint, planned.plan.schedule
    console.heading(f"{planned.policy.name}, {planned.budget}, rows: {planned.geometry.rows}")
    console.say(
        f"planned {format_bytes(weighs.most_planned)} and {format_bytes(weighs.scratch)} of scratch; "
        f"unmodified {format_bytes(weighs.unmodified)}"
    )
    console.heading("tokens held after each map, mean over heads (last row: tokens seen)")
    held = planned.plan.held.mean(axis=2)
    seen = [f"{n}" for n in schedule.seen[:-1]]
    rows = [[str(layer), *(f"{value:.4g}" for value in held[:-1, layer])] for layer in range(planned.plan.layers)]
    print_matrix(planned, [*rows, ["seen", *seen]])
    if len(planned.roles.names) > 1:
        print_roles(planned)


def print_roles(planned: Planned) -> None:
    """The share of heads that play a role, by layer and map; one table per role but the last, which has the rest."""
    for name in planned.roles.names[:-1]:
        console.heading(f"role {name}, % of heads (the others: {planned.roles.names[-1]})")
        share = role_share(planned.roles, name)
        rows = [[str(layer), *(f"{100 * value:.0f}" for value in share[:, layer])] for layer in range(share.shape[1])]
        print_matrix(planned, rows)
    if planned.roles.scores is not None:
        console.heading("score that decides the role, mean over heads")
        scores = planned.roles.scores.mean(axis=2)
        rows = [[str(layer), *(f"{value:.2f}" for value in scores[:, layer])] for layer in range(scores.shape[1])]
        print_matrix(planned, rows)


def print_kept(explanation: Explanation) -> None:
    """Tokens of each source map that the last scale attends to, by layer."""
    if explanation.kept is None:
        return
    of = "mean over heads" if explanation.head is None else f"head {explanation.head}"
    console.heading(f"tokens of each map that the last scale attends to, row {explanation.row}, {of}")
    schedule = explanation.planned.plan.schedule
    rows = [
        [
            str(layer),
            *(f"{n:.4g}" for n in explanation.kept.counts(layer=layer, head=explanation.head, row=explanation.row)),
        ]
        for layer in explanation.layers
    ]
    print_matrix(explanation.planned, [*rows, ["of", *map(str, schedule.tokens[:-1])]])


def print_matrix(planned: Planned, rows: Sequence[Sequence[str]]) -> None:
    """A table of numbers: layers from top to bottom, maps from left to right."""
    maps = planned.plan.schedule.maps
    square = all(t == 1 and h == w for t, h, w in maps)
    titles = [str(w) for _, _, w in maps] if square else str(planned.plan.schedule).split(" ")
    made = console.table("layer", *titles[: len(rows[0]) - 1])
    if len(maps) > ROOMY:
        made.padding = 0
    for cells in rows:
        console.row(made, *cells)
    console.show(made)
