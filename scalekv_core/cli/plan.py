"""``scalekv plan``: what a batch will take before anything is allocated, whether it fits, and what would make it fit."""

from __future__ import annotations

from typing import Annotated

import typer

from scalekv_core.cli import arguments as args
from scalekv_core.cli import defaults

BatchSize = Annotated[
    int, typer.Option("--batch", min=1, metavar="N", help="Images generated at once.", rich_help_panel=args.GENERATE)
]
Guidance = Annotated[
    bool,
    typer.Option(
        "--guidance/--no-guidance", help="Whether an image takes two rows. [dim]default: --guidance[/dim]",
        show_default=False, rich_help_panel=args.GENERATE,
    ),
]  # fmt: skip
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="What there is to fit into: 24GiB, 80GB.", rich_help_panel=args.RUN),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", metavar="NAME", help="float32, bfloat16 or float16. [dim]default: the model's[/dim]",
        rich_help_panel=args.RUN,
    ),
]  # fmt: skip
TextEncoder = Annotated[
    bool,
    typer.Option(
        "--text-encoder/--no-text-encoder",
        help="Whether it stays in memory while images are generated. [dim]default: --text-encoder[/dim]",
        show_default=False, rich_help_panel=args.RUN,
    ),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.", rich_help_panel=args.RUN)]


def plan(
    *,
    model: args.Model = defaults.MODEL,
    shape: args.Shape,
    batch: BatchSize = 1,
    guidance: Guidance = True,
    policy: args.PolicyName = None,
    compression: args.Compression,
    dtype: Dtype = None,
    text_encoder: TextEncoder = True,
    memory: Memory = None,
    json: Json = False,
) -> None:
    """Tell what a batch takes, beside what the unmodified model would, and whether it fits.

    Nothing is allocated and no weights are needed. With --memory, exit code 1 says that it does not fit.
    """
    from scalekv_core.cli import choice, installed, plan_tables
    from scalekv_core.memory.batch import Batch
    from scalekv_core.memory.plan import plan_batch
    from scalekv_core.pipeline import loading
    from scalekv_core.planning.budget import read_bytes

    ((chosen, spent),) = choice.policies_of(choice.choose_one(policy, compression, command="plan"))
    made = plan_batch(
        Batch(
            model=model,
            card=installed.model_card(model),
            images=batch,
            guidance=guidance,
            aspect=shape.aspect,
            size=shape.size,
            dtype=None if dtype is None else loading.read_dtype(dtype),
        ),
        chosen,
        spent,
        memory=None if memory is None else read_bytes(memory),
        keep_text_encoder=text_encoder,
        profile=loading.load_profile(compression.profile),
    )
    if json:
        plan_tables.print_json(made)
    else:
        plan_tables.print_plan(made)
    if not made.fits:
        raise typer.Exit(1)
