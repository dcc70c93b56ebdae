"""``scalekv explain``: who keeps what under a policy, as plots or as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalekv_core.cli import arguments as args
from scalekv_core.cli import console, defaults

if TYPE_CHECKING:
    from scalekv_core.compare.explain import Explanation
    from scalekv_core.contracts.profile import AttentionProfile
    from scalekv_core.models.image_model import ImageModel
    from scalekv_core.pipeline.job import Job
    from scalekv_core.planning.planner import Planned

SHOW = "What to show"
PLAN, KEPT = FILES = "plan.png", "kept.png"

Prompt = Annotated[
    str | None, typer.Argument(help="What to generate. By default the model's example.", show_default=False)
]
Seed = Annotated[int, args.option(args.GENERATE, "--seed", metavar="N", help="Seed of the image.")]
Layers = Annotated[
    list[int] | None,
    args.option(
        SHOW, "--layer", min=0, metavar="N", help="A layer; repeat it for more. [dim]default: some of each role[/dim]"
    ),
]
Head = Annotated[
    int | None, args.option(SHOW, "--head", min=0, metavar="N", help="A head. [dim]default: the share of all[/dim]")
]
BatchRow = Annotated[
    int,
    args.option(
        SHOW, "--row", min=0, metavar="N", help="A row of the batch; with guidance the second row is unconditioned."
    ),
]
AsText = Annotated[bool, args.option(SHOW, "--text", help="Prints tables instead of plots.")]
Generate = Annotated[
    bool,
    args.option(
        SHOW,
        "--generate/--no-generate",
        help="Whether to generate an image, to see which tokens are kept; the plan alone needs no weights. "
        "[dim]default: --generate[/dim]",
        show_default=False,
    ),
]
FormerGenerate = Annotated[bool | None, args.former("--draw/--no-draw", now="--generate/--no-generate")]


def explain(
    *,
    prompt: Prompt = None,
    model: args.ModelOfPrompts = None,
    shape: args.Shape,
    seed: Seed = 0,
    policy: args.PolicyName = None,
    compression: args.Compression,
    layer: Layers = None,
    head: Head = None,
    row: BatchRow = 0,
    text: AsText = False,
    generate: Generate = True,
    draw: FormerGenerate = None,
    place: args.Place,
    out: args.OutDirectory = Path(defaults.OUT),
) -> None:
    """Show how much each layer holds, and which tokens the last scale attends to.

    Writes plan.png and kept.png; --text prints the same as tables and needs no matplotlib.
    """
    from scalekv_core.cli import choice, explain_tables, jobs, writing
    from scalekv_core.compare import explain_plots
    from scalekv_core.compare.explain import Explanation, typical_layers
    from scalekv_core.pipeline import loading

    generate = generate if draw is None else draw
    chosen = choice.choose_one(policy, compression, command="explain")
    if not text:
        writing.check_directory(out)
        writing.check_files(out, FILES)
        explain_plots.check_plots()
    given = loading.load_profile(compression.profile)
    prompts = None if prompt is None else [prompt]
    name = model or jobs.model_for(prompts)
    request = jobs.Request(prompts=prompts, seeds=[seed], images=1, shape=shape)
    sampling = jobs.sampling_of(name, args.SamplingOptions())
    job = jobs.job_of(name, request, sampling=sampling, dtype=loading.read_dtype(place.dtype))
    known = given or loading.profile_of(job.batch, place.weights)
    (planned,) = choice.plan_all(job, chosen, choice.policies_of(chosen), known)
    explanation = Explanation(planned=planned)
    if generate:
        layers = list(layer or typical_layers(planned.roles))
        check_all(planned, layers=layers, head=head, row=row)
        loaded = loading.load_model(
            job.batch, weights=place.weights, device=place.device, allow_nonfinite=place.allow_nonfinite
        )
        explanation = look(loaded, job, planned, given, layers=layers, head=head, row=row)
    if text:
        explain_tables.print_plan(planned)
        explain_tables.print_kept(explanation)
        return
    with writing.written_together(out) as stage:
        save_plots(stage, explanation)
        names = [file.name for file in sorted(stage.iterdir())]
    console.say(f"written to {out}: {', '.join(names)}")


def check_all(planned: Planned, *, layers: Sequence[int], head: int | None, row: int) -> None:
    """Raises InputError if there is no such layer, head or row."""
    shape = planned.geometry
    for what, numbers, there in (
        ("layer", layers, shape.layers),
        ("head", [head or 0], shape.heads),
        ("row", [row], shape.rows),
    ):
        check_there(what, numbers, there)


def look(
    model: ImageModel,
    job: Job,
    planned: Planned,
    profile: AttentionProfile | None,
    *,
    layers: Sequence[int],
    head: int | None,
    row: int,
) -> Explanation:
    """Generates an image and watches which tokens are kept."""
    from scalekv_core.cli.generating import watch
    from scalekv_core.compare.explain import Explanation, KeptTokens

    kept = KeptTokens()
    generation = watch(model, job, planned, observer=kept)
    image = generation.frames[row % len(generation.frames), :, -1]  # of a clip the last frame
    return Explanation(planned=planned, kept=kept, image=image, layers=layers, head=head, row=row)


def check_there(what: str, numbers: Sequence[int], there: int) -> None:
    """Raises InputError if one of the numbers is not below ``there``."""
    from scalekv_core.errors import InputError

    if wrong := [number for number in numbers if number >= there]:
        raise InputError(f"there is no {what} {wrong[0]}; this image has {what}s 0 to {there - 1}")


def save_plots(stage: Path, explanation: Explanation) -> None:
    """plan.png, and kept.png if an image was generated."""
    from scalekv_core.compare.explain_plots import figure_of_kept, figure_of_plan

    figure_of_plan(explanation.planned).savefig(stage / PLAN)
    if explanation.kept is not None:
        figure_of_kept(explanation).savefig(stage / KEPT)
