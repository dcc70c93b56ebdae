"""The options of ``scalekv bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv_core.cli import arguments as args
from scalekv_core.cli import defaults

SHAPE = "What to measure"
POLICIES = ("full", "uniform", "snapkv", "h2o", "scalekv")
LAYERS, HEADS, HEAD_DIM = 32, 16, 128
"""Infinity-2B."""
MAPS = "1,2,4,6,8,12,16,20,24,32,40,48,64"
"""1024 x 1024."""
NONE = "none"

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME", help="Takes layers, heads and maps of a model; see [b]scalekv models[/b]. "
        "[dim]default: those of Infinity-2B[/dim]", rich_help_panel=SHAPE,
    ),
]  # fmt: skip


def _number(name: str, default: int) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{name}", min=1, metavar="N", help=f"[dim]default: {default}, or the model's[/dim]", rich_help_panel=SHAPE
    )
    return option


Layers = Annotated[int | None, _number("layers", LAYERS)]
Heads = Annotated[int | None, _number("heads", HEADS)]
HeadDim = Annotated[int | None, _number("head-dim", HEAD_DIM)]
Whole = Annotated[
    bool,
    typer.Option(
        "--whole", help="Measure the whole transformer of --model with random weights, not attention alone.",
        rich_help_panel=SHAPE,
    ),
]  # fmt: skip
BatchSize = Annotated[
    int | None,
    typer.Option("--batch", min=1, metavar="N", help="Images at once, two rows each.", rich_help_panel=SHAPE),
]
Aspect = Annotated[
    str | None,
    typer.Option("--aspect", metavar="W:H", help="Of the images; needs --model.", rich_help_panel=SHAPE),
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="NAME", help="Of the images, such as 1M; needs --model.", rich_help_panel=SHAPE),
]
Rows = Annotated[
    int | None,
    typer.Option(
        "--rows", min=1, metavar="N", help="Sequences in the batch, in place of --batch. [dim]default: 2[/dim]",
        rich_help_panel=SHAPE,
    ),
]  # fmt: skip
Maps = Annotated[
    str | None,
    typer.Option(
        "--maps", metavar="LIST", help="Sides of the maps: 1,2,4 or, where they are not square, 1x1,3x4. "
        "[dim]default: 1024 x 1024 of Infinity, or the model's[/dim]", rich_help_panel=SHAPE, show_default=False,
    ),
]  # fmt: skip
Drafters = Annotated[
    str | None,
    typer.Option(
        "--drafters", metavar="LIST", help="Layers that look far back, for policies that need a profile where none is "
        "given. [dim]default: every sixteenth[/dim]", rich_help_panel=args.COMPRESS,
    ),
]  # fmt: skip
Released = Annotated[
    str | None,
    typer.Option(
        "--released", metavar="NAME", help="Measure a stand-in for the released ScaleKV code too, down to the sizes of "
        f"this policy's plan, or {NONE}. [dim]default: {defaults.POLICY}, if it is there[/dim]",
        rich_help_panel=args.COMPRESS,
    ),
]  # fmt: skip
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Images that are timed.", rich_help_panel=args.RUN)]
Stages = Annotated[
    int,
    typer.Option("--stages", min=0, help="Further images, for the share of each stage.", rich_help_panel=args.RUN),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of torch. [dim]default: torch's own[/dim]", rich_help_panel=args.RUN)
]  # fmt: skip
ProcessorTime = Annotated[
    bool,
    typer.Option(
        "--processor-time", help="Count the processor's time, not the clock's: where others use the machine too. Best with "
        "--threads 1.", rich_help_panel=args.RUN,
    ),
]  # fmt: skip
EveryLayer = Annotated[
    bool,
    typer.Option(
        "--every-layer", help="Run all layers, instead of one of each kind that stands for the others.",
        rich_help_panel=args.RUN,
    ),
]  # fmt: skip
Seed = Annotated[int, typer.Option("--seed", help="Of the random queries, keys and values.", rich_help_panel=args.RUN)]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Writes all figures.", rich_help_panel=args.RUN)
]
Launches = Annotated[
    bool,
    typer.Option(
        "--launches", help="Count kernels and host time of each attend instead, on tiny tensors, for every policy and codec or "
        "for those of --policy.", rich_help_panel=SHAPE,
    ),
]  # fmt: skip
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--compare", metavar="A.json B.json", help="Measures nothing: shows two records side by side, if they are of the "
        "same thing.", rich_help_panel=args.RUN,
    ),
]  # fmt: skip
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE.png", help="Measures nothing: plots how the cost grows with tokens or with rows, whichever "
        "the records that --record names differ in.", rich_help_panel=args.RUN,
    ),
]  # fmt: skip
Records = Annotated[
    list[Path] | None,
    typer.Option("--record", metavar="FILE.json", help="A record for --plot (repeat it).", rich_help_panel=args.RUN),
]
