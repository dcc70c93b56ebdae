"""``scalekv compare``: which policy, at which budget, for this model and these prompts? A study, planned, run and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from attrs import astuple, frozen

from scalekv_core.cli import arguments as args
from scalekv_core.errors import InputError

ASK, STORE = "What to compare", "Where it runs and goes"


@frozen(kw_only=True)
class Asked:
    """What a study compares; what is not given is taken from the study file, or from the defaults."""

    models: Annotated[
        list[str] | None, args.option(ASK, "--model", "-m", metavar="NAME", help="An image model (repeat it).")
    ] = None
    policies: Annotated[
        list[str] | None,
        args.option(
            ASK, "--policy", "-p", metavar="NAME",
            help="A policy, or a policy with parts: 'scalekv selector=h2o' (repeat it). [dim]default: all[/dim]",
        ),
    ] = None  # fmt: skip
    budgets: Annotated[
        list[str] | None,
        args.option(ASK, "--budget", "-b", metavar="SIZE", help="A budget (repeat it). [dim]default: 10%[/dim]"),
    ] = None
    codecs: Annotated[
        list[str] | None,
        args.option(ASK, "--codec", metavar="NAME", help="A codec (repeat it). [dim]default: the policy's own[/dim]"),
    ] = None
    vary: Annotated[
        list[str] | None,
        args.option(ASK, "--vary", metavar="OPTION=A,B", help="Values of an option: window=4,16,64 (repeat it)."),
    ] = None
    prompts: Annotated[
        list[str] | None,
        args.option(
            ASK, "--prompts", metavar="[MODEL=]SET",
            help="A set of prompts (digits, captions, written) or a .txt, .csv or .jsonl file. "
            "[dim]default: the set that the model accepts[/dim]",
        ),
    ] = None  # fmt: skip
    seeds: Annotated[
        list[int] | None,
        args.option(ASK, "--seed", metavar="N", help="Every prompt runs with every seed. [dim]default: 0[/dim]"),
    ] = None
    metrics: Annotated[
        list[str] | None,
        args.option(
            ASK, "--metric", metavar="NAME",
            help="A metric; the last one ranks (repeat it). [dim]default: psnr, ssim, agreement, forced-kl[/dim]",
        ),
    ] = None  # fmt: skip
    batch: Annotated[
        int | None,
        args.option(ASK, "--batch", min=1, metavar="N", help="Images generated at once. [dim]default: 1[/dim]"),
    ] = None
    file: Annotated[
        Path | None,
        args.option(ASK, "--study", metavar="FILE.toml", help="Reads all of this from a file; options win over it."),
    ] = None


@frozen(kw_only=True)
class Run:
    """Where a study runs."""

    out: Annotated[
        Path,
        args.option(
            STORE,
            "--out",
            metavar="DIR",
            help="Folder of the study; one that is there is resumed.",
        ),
    ] = Path("scalekv-study")
    weights: Annotated[
        list[str] | None,
        args.option(
            STORE, "--weights", metavar="[MODEL=]PATH", help="Weights of a model without built-in ones (repeat it)."
        ),
    ] = None
    device: Annotated[str, args.option(STORE, "--device", metavar="NAME", help="cpu, cuda, cuda:1, ...")] = "cpu"
    dtype: Annotated[
        str | None,
        args.option(STORE, "--dtype", metavar="NAME", help="float32, bfloat16 or float16. [dim]default: float32[/dim]"),
    ] = None
    engine: Annotated[
        str | None,
        args.option(STORE, "--engine", metavar="NAME", help="in-process or ray. [dim]default: in-process[/dim]"),
    ] = None
    address: Annotated[
        str, args.option(STORE, "--address", metavar="ADDRESS", help="Ray cluster: local, auto or HOST:PORT.")
    ] = "local"
    workers: Annotated[
        int | None, args.option(STORE, "--workers", min=1, metavar="N", help="Number of workers; needs Ray.")
    ] = None


Retry = Annotated[
    bool, args.option(STORE, "--retry", help="Runs the cells that failed, or of which a metric did, again.")
]
From = Annotated[
    list[Path] | None,
    args.option(
        STORE,
        "--from",
        metavar="STUDY",
        help="Takes the settings of a study of the same prompts, seeds, metrics and versions into --out, and stops (repeat it).",
    ),
]
PlanOnly = Annotated[bool, args.option(STORE, "--plan", help="Shows what would run, and stops.")]
Export = Annotated[
    Path | None,
    args.option(
        STORE,
        "--export",
        metavar="FILE",
        help="Writes the study in --out as .csv, .jsonl or .parquet, or without images as one .sqlite, and stops.",
    ),
]


def compare(
    *,
    asked: Asked,
    shape: args.Shape,
    sampling: args.SamplingOptions,
    run: Run,
    plan: PlanOnly = False,
    retry: Retry = False,
    others: From = None,
    export: Export = None,
) -> None:
    """Compare policies, budgets and codecs on the same images, and rank them.

    Every setting generates the same prompts with the same seeds as the unmodified model.

    Results go to DIR/study.sqlite as they come. The same command resumes a study that was interrupted; with
    more policies, budgets, codecs or values it adds the missing settings.
    """
    from scalekv_core.cli import studies, writing

    if not others and export is None:
        from scalekv_core.cli import asking

        studies.run(asking.ask(asked, shape, sampling, dtype=run.dtype), run, plan_only=plan, retry=retry)
        return
    if plan or retry or any(value for options in (asked, shape, sampling) for value in astuple(options)):
        raise InputError(
            "--from and --export use what studies hold and measure nothing; leave out what is asked, sampled, planned or retried"
        )
    if export is not None:
        writing.check_file(export, "--export")
    if others:
        studies.take(others, run.out)
    if export is not None:
        studies.export(run.out, export)
