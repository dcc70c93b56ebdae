"""``scalekv calibrate``: generate with the unmodified model and record where every layer and head attends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekv_core.cli import arguments as args
from scalekv_core.cli import console, defaults

if TYPE_CHECKING:
    from scalekv_core.contracts.profile import AttentionProfile
    from scalekv_core.pipeline.job import Job

LAST = 3
"""Scales that are shown: the last ones, where nearly all of the cache is."""

PromptFile = Annotated[
    Path | None,
    typer.Option("--prompt-file", metavar="FILE", help="One prompt a line.", rich_help_panel=args.GENERATE),
]
Queries = Annotated[
    int,
    typer.Option(
        "--queries", min=1, metavar="N", help="Queries of each map that are measured.", rich_help_panel=args.RUN
    ),
]
Batch = Annotated[
    int, typer.Option("--batch", min=1, metavar="N", help="Images generated at once.", rich_help_panel=args.RUN)
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="The profile.", rich_help_panel=args.RUN)]


def calibrate(
    *,
    prompts: args.Prompts = None,
    model: args.ModelOfPrompts = None,
    shape: args.Shape,
    prompt_file: PromptFile = None,
    seed: args.Seeds = None,
    images: args.Images = None,
    sampling: args.SamplingOptions,
    place: args.Place,
    queries: Queries = defaults.QUERIES,
    batch: Batch = 4,
    out: Out = Path(defaults.PROFILE),
) -> None:
    """Measure a model's attention, for the policies that need a profile.

    Generates with the unmodified model, and writes one file when all images are generated.
    """
    from scalekv_core.cli import jobs, writing
    from scalekv_core.pipeline import loading

    writing.check_file(out, "--out")
    given = [*(prompts or ()), *(read_prompts(prompt_file) if prompt_file else ())]
    name = model or jobs.model_for(given)
    request = jobs.Request(prompts=given, seeds=seed, images=images, shape=shape)
    job = jobs.job_of(name, request, sampling=jobs.sampling_of(name, sampling), dtype=loading.read_dtype(place.dtype))
    loaded = loading.load_model(
        job.batch, weights=place.weights, device=place.device, allow_nonfinite=place.allow_nonfinite
    )
    measured = measure(loaded, job, queries=queries, batch=batch)
    with writing.written_together(out.parent) as stage:
        measured.save(stage / out.name)
    with console.naming(f"the profile is in {out}"):
        print_profile(measured)
        console.heading(f"written to {out}")
        console.say(f"give it to a policy with --profile {out}")


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    from scalekv_core.errors import InputError

    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompt file {path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not any(lines):
        raise InputError(f"prompt file {path} holds no prompt; write one per line")
    return [line for line in lines if line]


def measure(model: Any, job: Job, *, queries: int, batch: int) -> AttentionProfile:
    """The profile of a model over all images of a job, generated in batches."""
    from scalekv_core.cli.installed import the_registry
    from scalekv_core.pipeline.out_of_memory import explaining_out_of_memory
    from scalekv_core.session import calibration

    with (
        calibration.calibrate(
            model, queries=queries, provenance=provenance(model, job), registry=the_registry()
        ) as sums,
        progress(len(job.prompts)) as advance,
    ):
        for part in job.parts(batch):
            with explaining_out_of_memory(part, None):
                model.generate(part.prompts, seeds=part.seeds, sampling=part.sampling)
            advance(len(part.prompts))
    measured: AttentionProfile = sums.profile()
    return measured


def provenance(model: Any, job: Job) -> dict[str, str]:
    """What a profile says about how it was made."""
    import json
    from importlib.metadata import version

    import attrs

    from scalekv_core.compare.environment import fingerprint

    print_of_weights = fingerprint(model.module)
    return {
        "scalekv": version("scalekv"),
        "prompts": json.dumps(list(dict.fromkeys(job.prompts)), ensure_ascii=False),
        "images": str(len(job.prompts)),
        "seeds": json.dumps(list(dict.fromkeys(job.seeds))),
        "sampling": json.dumps(attrs.asdict(job.sampling)),
        **({"weights": print_of_weights} if print_of_weights else {}),
    }


@contextlib.contextmanager
def progress(images: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; what it yields is called with the number of images."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not console.err.is_terminal:
        yield lambda images: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.err, transient=True) as bar:
        task = bar.add_task("generating and measuring", total=images)
        yield lambda images: bar.advance(task, images)


def print_profile(profile: AttentionProfile) -> None:
    """Where the attention goes by layer, at the last scales, and where the profile comes from."""
    fraction = min(profile.fractions, key=lambda f: abs(f - 0.1))
    current, share = profile.current_mass.mean(axis=2), profile.top_share_at(fraction).mean(axis=2)
    maps = str(profile.schedule).split(" ")
    scales = range(max(1, len(maps) - LAST), len(maps))
    console.heading(f"attention of {profile.model}, mean over heads, images and queries")
    made = console.table("layer", *(f"self {maps[k]}" for k in scales), *(f"top {maps[k]}" for k in scales))
    for layer in range(current.shape[1]):
        cells = [f"{current[k, layer]:.1%}" for k in scales] + [f"{share[k, layer]:.1%}" for k in scales]
        console.row(made, layer, *cells)
    console.show(made)
    console.say("self: attention that a map pays to itself rather than to the history.")
    console.say(f"top: how much of the rest the strongest {fraction:.0%} of the history hold.")
    console.heading("provenance")
    console.pairs(profile.provenance.items())
