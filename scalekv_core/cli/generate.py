"""``scalekv generate``: the same images with the whole and with a compressed cache, side by side, with figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekv_core.cli import arguments as args
from scalekv_core.cli import console, defaults

if TYPE_CHECKING:
    from scalekv_core.cli.drawing import Drawn
    from scalekv_core.cli.loading import Job
    from scalekv_core.models.image_model import Generation

Out = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Directory for the pictures and the record.", rich_help_panel=args.RUN),
]
Full = Annotated[
    bool,
    typer.Option(
        "--full/--no-full",
        help="Whether to draw with the unmodified model too, and compare. [dim]default: --full[/dim]",
        show_default=False,
        rich_help_panel=args.RUN,
    ),
]
Check = Annotated[
    bool, typer.Option("--check", help="Check every answer of the policy; slower.", rich_help_panel=args.RUN)
]


def generate(
    ctx: typer.Context,
    prompts: args.Prompts = None,
    model: args.ModelOfPrompts = None,
    aspect: args.Aspect = None,
    size: args.Size = None,
    seed: args.Seeds = None,
    images: args.Images = None,
    paired: args.Paired = False,
    policy: args.Policies = None,
    budget: args.Budget = None,
    classifier: args.Classifier = None,
    allocator: args.Allocator = None,
    selector: args.Selector = None,
    merger: args.Merger = None,
    codec: args.Codec = None,
    option: args.Options = None,
    config: args.Config = None,
    profile: args.Profile = None,
    guidance: args.Guidance = None,
    guidance_at: args.GuidanceAt = None,
    top_k: args.TopK = None,
    top_p: args.TopP = None,
    temperature: args.Temperature = None,
    greedy: args.Greedy = False,
    weights: args.Weights = None,
    random_weights: args.RandomWeights = False,
    device: args.Device = "cpu",
    dtype: args.Dtype = "float32",
    out: Out = Path(defaults.OUT),
    full: Full = True,
    check: Check = False,
) -> None:
    """Draw images with the whole and with a compressed cache, and compare.

    Writes full.png, compressed.png, side_by_side.png and record.json; for several policies one sheet, policies.png.
    """
    from scalekv_core.cli import drawing, loading, record, writing
    from scalekv_core.cli import memory as room
    from scalekv_core.cli.config import choose

    parts = {"classifier": classifier, "allocator": allocator, "selector": selector, "merger": merger, "codec": codec}
    choice = choose(config=config, policies=policy, budget=budget, parts=parts, options=option)
    writing.check_directory(out)
    policies = drawing.policies_of(choice)
    name = model or loading.model_for(prompts)
    sampling = loading.sampling_of(
        name,
        guidance=guidance,
        guidance_at=guidance_at,
        top_k=top_k,
        top_p=top_p,
        temperature=temperature,
        greedy=greedy,
    )
    shape: dict[str, Any] = {
        "aspect": aspect,
        "size": size,
        "dtype": loading.read_dtype(dtype),
        "random_weights": random_weights,
    }
    job = loading.job_of(name, prompts=prompts, seeds=seed, images=images, sampling=sampling, paired=paired, **shape)
    memory = room.memory_of(loading.read_device(device))
    measured = loading.load_profile(profile)
    known = measured or loading.profile_of(job.batch, weights)
    plans = drawing.plan_all(job, choice, policies, known, memory=memory)
    if full:
        room.check_room_of_whole(job, memory)
    loaded = loading.load_model(job.batch, weights=weights, device=device)
    reference = drawing.draw_full(loaded, job) if full else None
    drawn = [drawing.draw_compressed(loaded, job, one, profile=measured, full=reference, check=check) for one in plans]
    print_figures(drawn)
    facts = record.record(
        loaded,
        job,
        drawn,
        arguments=ctx.obj or (),
        weights="random" if random_weights else weights,
        device=device,
        profile=measured,
        profile_file=profile,
    )
    names = save(out, facts, loaded.name, job, drawn, reference)
    console.heading(f"written to {out}: {', '.join(names)}")


def print_figures(drawn: Sequence[Drawn]) -> None:
    """The tables: in detail for one policy, a line each for several."""
    from scalekv_core.cli import tables

    if len(drawn) > 1:
        tables.print_comparison(drawn)
        return
    console.heading(f"{drawn[0].policy.name}, {drawn[0].image.planned.budget}")
    tables.print_memory(drawn[0])
    tables.print_fidelity(drawn[0])


def save(
    out: Path,
    record: dict[str, Any],
    model: str,
    job: Job,
    drawn: Sequence[Drawn],
    reference: Generation | None,
) -> list[str]:
    """Writes pictures and record, all or none of them; returns their names."""
    from scalekv_core.cli.record import as_json
    from scalekv_core.cli.writing import written_together

    with written_together(out) as stage:
        save_pictures(stage, model, job, drawn, reference)
        names = [*sorted(file.name for file in stage.iterdir()), "record.json"]
        (stage / names[-1]).write_text(as_json({**record, "files": names}), encoding="utf-8")
    return names


def save_pictures(stage: Path, model: str, job: Job, drawn: Sequence[Drawn], reference: Generation | None) -> None:
    """Every picture of a run, into a directory."""
    from scalekv_core.cli.sheets import policy_sheet, side_by_side, slug
    from scalekv_core.compare.pictures import as_images, grid

    columns = len(set(job.seeds)) if len(set(job.seeds)) > 1 else len(job.prompts)
    plain = {f"compressed-{slug(one.policy.name)}.png": one.generation for one in drawn}
    if len(drawn) == 1:
        plain = {"compressed.png": drawn[0].generation}
    if reference is not None:
        plain["full.png"] = reference
    for name, generation in plain.items():
        grid(as_images(generation.images), columns=columns).save(stage / name)
    if len(drawn) > 1:
        policy_sheet(model, job, drawn, reference).save(stage / "policies.png")
    elif reference is not None:
        side_by_side(model, job, drawn[0], reference).save(stage / "side_by_side.png")
