"""``scalekv explain``: who keeps what under a policy, as plots or as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from attrs import frozen

from scalekv_core.cli import arguments as args
from scalekv_core.cli import console, defaults

if TYPE_CHECKING:
    from torch import Tensor

    from scalekv_core.cli.loading import Job
    from scalekv_core.compare.explain import KeptTokens
    from scalekv_core.contracts.profile import AttentionProfile
    from scalekv_core.models.image_model import ImageModel
    from scalekv_core.planning.planner import Planned

SHOW = "What to show"


@frozen(eq=False, kw_only=True)
class Shown:
    """What there is to show.

    Attributes:
        planned: who may hold how much.
        kept, image: which tokens stay, and what was drawn; None if nothing was.
        layers, head, row: which ones.
    """

    planned: Planned
    kept: KeptTokens | None = None
    image: Tensor | None = None
    layers: Sequence[int] = ()
    head: int | None = None
    row: int = 0


Layers = Annotated[
    list[int] | None,
    typer.Option(
        "--layer",
        min=0,
        metavar="N",
        help="A layer; repeat it for more. [dim]default: three[/dim]",
        rich_help_panel=SHOW,
    ),
]
Head = Annotated[
    int | None,
    typer.Option(
        "--head", min=0, metavar="N", help="A head. [dim]default: the share of all[/dim]", rich_help_panel=SHOW
    ),
]
BatchRow = Annotated[
    int,
    typer.Option(
        "--row",
        min=0,
        metavar="N",
        help="A row of the batch; with guidance the second one is unconditioned.",
        rich_help_panel=SHOW,
    ),
]
AsText = Annotated[bool, typer.Option("--text", help="Print tables, plot nothing.", rich_help_panel=SHOW)]
Draw = Annotated[
    bool,
    typer.Option(
        "--draw/--no-draw",
        help="Whether to draw, to see which tokens stay; the plan alone needs no weights. [dim]default: --draw[/dim]",
        show_default=False,
        rich_help_panel=SHOW,
    ),
]
Prompt = Annotated[
    str | None, typer.Argument(help="What to draw; the model's own example by default.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory for the plots.", rich_help_panel=args.RUN)]


def explain(
    prompt: Prompt = None,
    model: args.ModelOfPrompts = None,
    aspect: args.Aspect = None,
    size: args.Size = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the image.", rich_help_panel=args.DRAW)] = 0,
    policy: args.PolicyName = None,
    budget: args.Budget = None,
    classifier: args.Classifier = None,
    allocator: args.Allocator = None,
    selector: args.Selector = None,
    merger: args.Merger = None,
    codec: args.Codec = None,
    option: args.Options = None,
    config: args.Config = None,
    profile: args.Profile = None,
    layer: Layers = None,
    head: Head = None,
    row: BatchRow = 0,
    text: AsText = False,
    draw: Draw = True,
    weights: args.Weights = None,
    device: args.Device = "cpu",
    dtype: args.Dtype = "float32",
    out: Out = Path(defaults.OUT),
) -> None:
    """Show which layer holds how much, and which tokens the last scale finds.

    Writes plan.png and kept.png; --text prints the same as tables and needs no matplotlib.
    """
    from scalekv_core.cli import drawing, explain_tables, loading, writing
    from scalekv_core.cli.config import choose
    from scalekv_core.compare import explain as explaining
    from scalekv_core.errors import InputError

    parts = {"classifier": classifier, "allocator": allocator, "selector": selector, "merger": merger, "codec": codec}
    policies = None if policy is None else [policy]
    choice = choose(config=config, policies=policies, budget=budget, parts=parts, options=option)
    if choice.every or len(choice.policies) > 1:
        raise InputError(f"explain shows one policy at a time; got {', '.join(choice.policies)}")
    if not text:
        writing.check_directory(out)
        explaining.check_plots()
    measured = loading.load_profile(profile)
    prompts = [prompt] if prompt else None
    name = model or loading.model_for(prompts)
    shape: dict[str, Any] = {"aspect": aspect, "size": size, "dtype": loading.read_dtype(dtype)}
    job = loading.job_of(name, prompts=prompts, seeds=[seed], images=1, sampling=loading.sampling_of(name), **shape)
    known = measured or loading.profile_of(job.batch, weights)
    (planned,) = drawing.plan_all(job, choice, drawing.policies_of(choice), known)
    shown = Shown(planned=planned)
    if draw:
        loaded = loading.load_model(job.batch, weights=weights, device=device)
        shown = look(loaded, job, planned, measured, layers=layer, head=head, row=row)
    if text:
        explain_tables.print_plan(shown.planned)
        explain_tables.print_kept(shown)
        return
    with writing.written_together(out) as stage:
        save_plots(stage, shown)
        names = [file.name for file in sorted(stage.iterdir())]
    console.say(f"written to {out}: {', '.join(names)}")


def look(
    model: ImageModel,
    job: Job,
    planned: Planned,
    profile: AttentionProfile | None,
    *,
    layers: Sequence[int] | None,
    head: int | None,
    row: int,
) -> Shown:
    """Draws an image and watches which tokens stay.

    Raises:
        InputError: there is no such layer, head or row.
    """
    from scalekv_core.cli.drawing import watch
    from scalekv_core.compare.explain import KeptTokens

    shape = planned.geometry
    layers = list(layers or spread(shape.layers))
    for what, numbers, there in (
        ("layer", layers, shape.layers),
        ("head", [head or 0], shape.heads),
        ("row", [row], shape.rows),
    ):
        check_there(what, numbers, there)
    kept = KeptTokens()
    generation = watch(model, job, planned, profile=profile, observer=kept)
    image = generation.images[row % len(generation.images)]
    return Shown(planned=planned, kept=kept, image=image, layers=layers, head=head, row=row)


def check_there(what: str, numbers: Sequence[int], there: int) -> None:
    """Raises InputError if one of the numbers is not below ``there``."""
    from scalekv_core.errors import InputError

    if wrong := [number for number in numbers if number >= there]:
        raise InputError(f"there is no {what} {wrong[0]}; this image has {what}s 0 to {there - 1}")


def spread(layers: int) -> list[int]:
    """The first, the middle and the last layer.

    >>> spread(16), spread(2)
    ([0, 8, 15], [0, 1])
    """
    return sorted({0, layers // 2, layers - 1})


def save_plots(stage: Path, shown: Shown) -> None:
    """plan.png, and kept.png if an image was drawn."""
    from scalekv_core.compare.explain import figure_of_kept, figure_of_plan

    figure_of_plan(shown.planned).savefig(stage / "plan.png")
    if shown.kept is None or shown.image is None:
        return
    of = "shaded by the share of heads" if shown.head is None else f"head {shown.head}"
    title = f"{shown.planned.policy.name}, {shown.planned.budget}: tokens that the last scale finds\n({of})"
    figure = figure_of_kept(shown.kept, shown.image, layers=shown.layers, head=shown.head, row=shown.row, title=title)
    figure.savefig(stage / "kept.png")
