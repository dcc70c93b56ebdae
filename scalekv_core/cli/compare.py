"""``scalekv compare``: which policy, at which budget, for this model and these prompts? A study, planned, run and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv_core.cli import arguments as args

ASK, MEASURE, STORE = "What to compare", "What to measure", "Where it runs and goes"

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", "-m", metavar="NAME", help="Name of an image model; repeat it for several.", rich_help_panel=ASK
    ),
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy", "-p", metavar="NAME", rich_help_panel=ASK,
        help="Name of a policy, or a name with parts: 'scalekv selector=h2o'; repeat it. [dim]default: all[/dim]",
    ),
]  # fmt: skip
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget", "-b", metavar="SIZE", help="A budget; repeat it. [dim]default: 10%[/dim]", rich_help_panel=ASK
    ),
]
Codecs = Annotated[
    list[str] | None,
    typer.Option(
        "--codec", metavar="NAME", help="A codec; repeat it. [dim]default: the policy's own[/dim]", rich_help_panel=ASK
    ),
]
Vary = Annotated[
    list[str] | None,
    typer.Option("--vary", metavar="OPTION=A,B,...", help="Values of an option: window=4,16,64.", rich_help_panel=ASK),
]
PromptsFrom = Annotated[
    list[str] | None,
    typer.Option(
        "--prompts", metavar="[MODEL=]SET", rich_help_panel=ASK,
        help="Prompts: a set (digits, captions, written) or a .txt, .csv or .jsonl file; MODEL=SET for one model alone. "
        "[dim]default: the set that the model accepts[/dim]",
    ),
]  # fmt: skip
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed", metavar="N", help="A seed; every prompt runs with each. [dim]default: 0[/dim]", rich_help_panel=ASK
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="A metric; repeat it. [dim]default: psnr, ssim, agreement, forced-kl[/dim]",
        rich_help_panel=MEASURE,
    ),
]
Batch = Annotated[
    int, typer.Option("--batch", min=1, metavar="N", help="Images generated at once.", rich_help_panel=MEASURE)
]
File = Annotated[
    Path | None,
    typer.Option(
        "--study",
        metavar="FILE.toml",
        help="Read all of this from a file; options here replace what it says.",
        rich_help_panel=ASK,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", metavar="DIR", help="Folder of the study; resumes the one that is there.", rich_help_panel=STORE
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine", metavar="NAME", help="in-process or ray. [dim]default: in-process[/dim]", rich_help_panel=STORE
    ),
]
Address = Annotated[
    str,
    typer.Option("--address", metavar="ADDRESS", help="Ray cluster: local, auto or HOST:PORT.", rich_help_panel=STORE),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, metavar="N", help="Workers; needs Ray.", rich_help_panel=STORE)
]
WeightsOf = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        metavar="[MODEL=]PATH",
        help="Weights of a model that does not ship with them.",
        rich_help_panel=STORE,
    ),
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Show what would run, and stop.", rich_help_panel=STORE)]
Export = Annotated[
    Path | None,
    typer.Option(
        "--export",
        metavar="FILE",
        help="Write the study in --out to a .csv, .jsonl or .parquet file, and stop.",
        rich_help_panel=STORE,
    ),
]


def compare(
    model: Models = None,
    policy: Policies = None,
    budget: Budgets = None,
    codec: Codecs = None,
    vary: Vary = None,
    prompts: PromptsFrom = None,
    seed: Seeds = None,
    study: File = None,
    metric: Metrics = None,
    batch: Batch = 1,
    guidance: args.Guidance = None,
    top_k: args.TopK = None,
    top_p: args.TopP = None,
    temperature: args.Temperature = None,
    greedy: args.Greedy = False,
    aspect: args.Aspect = None,
    size: args.Size = None,
    weights: WeightsOf = None,
    device: args.Device = "cpu",
    dtype: args.Dtype = "float32",
    out: Out = Path("scalekv-study"),
    engine: EngineName = None,
    address: Address = "local",
    workers: Workers = None,
    plan: PlanOnly = False,
    export: Export = None,
) -> None:
    """Compare policies, budgets and codecs on the same images, and rank them.

    Every setting generates the same prompts with the same seeds as the unmodified model. Results go into DIR/study.sqlite as
    they come; the same command resumes a study that was interrupted.
    """
    from scalekv_core.cli import studies

    if export is not None:
        studies.export(out, export)
        return
    sampling = {
        "guidance": guidance,
        "top_k": top_k,
        "top_p": top_p,
        "temperature": temperature,
        "greedy": greedy or None,
    }
    asked = studies.ask(
        file=study, models=model, policies=policy, budgets=budget, codecs=codec, vary=vary, prompts=prompts, seeds=seed,
        metrics=metric, batch=batch, sampling=sampling, aspect=aspect, size=size, dtype=dtype,
    )  # fmt: skip
    studies.run(
        asked, out, weights=weights, device=device, engine=engine, address=address, workers=workers, plan_only=plan
    )
