"""Options that several commands share, each defined once. Help texts are one sentence, readable on 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv_core.cli import defaults

DRAW, COMPRESS, SAMPLE, RUN = "What to draw", "How to compress", "How to sample", "Where and how to run"

Prompts = Annotated[
    list[str] | None,
    typer.Argument(help="What to draw, in the model's language; its own example by default.", show_default=False),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Name of the image model; see [b]scalekv models[/b].",
        rich_help_panel=DRAW,
    ),
]
ModelOfPrompts = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Name of the image model; see [b]scalekv models[/b]. [dim]default: the first that ships with weights and reads "
        f"the prompts; {defaults.MODEL} without any[/dim]",
        rich_help_panel=DRAW,
    ),
]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed",
        metavar="N",
        help="First seed, or one for each image (repeat it). [dim]default: 0[/dim]",
        rich_help_panel=DRAW,
    ),
]
Paired = Annotated[
    bool,
    typer.Option(
        "--paired", help="One seed for each prompt, instead of every seed for every prompt.", rich_help_panel=DRAW
    ),
]
Images = Annotated[
    int | None,
    typer.Option(
        "--images",
        "-n",
        min=1,
        metavar="N",
        help="Images of each prompt. [dim]default: 1, or one per seed[/dim]",
        rich_help_panel=DRAW,
    ),
]

Aspect = Annotated[
    str | None,
    typer.Option(
        "--aspect",
        metavar="W:H",
        help="Aspect ratio, width to height. [dim]default: the model's[/dim]",
        rich_help_panel=DRAW,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="NAME",
        help="How large: 0.06M, 0.25M, 0.60M or 1M pixels. [dim]default: the model's[/dim]",
        rich_help_panel=DRAW,
    ),
]

Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="NAME",
        help="Name of the policy; repeat it to compare several, or say [b]all[/b]. See [b]scalekv policies[/b]. "
        f"[dim]default: {defaults.POLICY}[/dim]",
        rich_help_panel=COMPRESS,
    ),
]
PolicyName = Annotated[
    str | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="NAME",
        help=f"Name of the policy; see [b]scalekv policies[/b]. [dim]default: {defaults.POLICY}[/dim]",
        rich_help_panel=COMPRESS,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        "-b",
        metavar="SIZE",
        help="How much may be held: 10% (of the history that enters the last scale), '10% of all', '650 tokens', 4GiB. "
        "[dim]default: the policy's own[/dim]",
        rich_help_panel=COMPRESS,
    ),
]


def _part(name: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{name}", metavar="NAME", help=f"Another {name} for the policy.", rich_help_panel=COMPRESS
    )
    return option


Classifier = Annotated[str | None, _part("classifier")]
Allocator = Annotated[str | None, _part("allocator")]
Selector = Annotated[str | None, _part("selector")]
Merger = Annotated[str | None, _part("merger")]
Codec = Annotated[str | None, _part("codec")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="NAME=VALUE",
        help="Sets an option of the policy: window=9, or selector.window=9 (repeat it).",
        rich_help_panel=COMPRESS,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="Reads policy, budget, parts and options from a file; what stands here wins over it.",
        rich_help_panel=COMPRESS,
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Attention profile of the model, as [b]scalekv calibrate[/b] writes it.",
        rich_help_panel=COMPRESS,
    ),
]

Guidance = Annotated[
    str | None,
    typer.Option(
        metavar="X",
        help="Strength of guidance, or one per scale: 1,1,3,...; 0 draws without it.",
        rich_help_panel=SAMPLE,
    ),
]
GuidanceAt = Annotated[
    str | None,
    typer.Option(
        "--guidance-at",
        metavar="N,...",
        help="Where it is applied, in models that know several places: 0 on the logits, -5 after the fifth block before the "
        "end, or both. [dim]default: 0[/dim]",
        rich_help_panel=SAMPLE,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k", metavar="N", help="How many of the likeliest values compete; 0: all.", rich_help_panel=SAMPLE
    ),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", metavar="X", help="How much probability they may hold; 0: all.", rich_help_panel=SAMPLE),
]
Temperature = Annotated[float | None, typer.Option(metavar="X", help="Divides the logits.", rich_help_panel=SAMPLE)]
Greedy = Annotated[
    bool, typer.Option("--greedy", help="Take the likeliest value; seeds play no part.", rich_help_panel=SAMPLE)
]

Weights = Annotated[
    Path | None,
    typer.Option("--weights", metavar="PATH", help="The model's weights, if they do not ship.", rich_help_panel=RUN),
]
RandomWeights = Annotated[
    bool,
    typer.Option(
        "--random-weights", help="Draw noise: to measure memory and time without weights.", rich_help_panel=RUN
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...", rich_help_panel=RUN)]
Dtype = Annotated[
    str, typer.Option("--dtype", metavar="NAME", help="float32, bfloat16 or float16.", rich_help_panel=RUN)
]
