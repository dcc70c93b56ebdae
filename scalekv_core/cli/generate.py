"""``scalekv generate``: the same images from the unmodified model and with a compressed cache, side by side, with figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalekv_core.cli import arguments as args
from scalekv_core.cli import console, defaults

if TYPE_CHECKING:
    from scalekv_core.cli.generating import Generated

Baseline = Annotated[
    bool,
    args.option(
        args.RUN,
        "--baseline/--no-baseline",
        help="Whether to generate with the unmodified model too, and compare. [dim]default: --baseline[/dim]",
        show_default=False,
    ),
]
FormerBaseline = Annotated[bool | None, args.former("--full/--no-full", now="--baseline/--no-baseline")]
Check = Annotated[bool, args.option(args.RUN, "--check", help="Checks every answer of the policy; slower.")]


def generate(
    ctx: typer.Context,
    *,
    prompts: args.Prompts = None,
    model: args.ModelOfPrompts = None,
    shape: args.Shape,
    seed: args.Seeds = None,
    images: args.Images = None,
    paired: args.Paired = False,
    policy: args.Policies = None,
    compression: args.Compression,
    sampling: args.SamplingOptions,
    place: args.Place,
    random_weights: args.RandomWeights = False,
    out: args.OutDirectory = Path(defaults.OUT),
    clip: args.Clip = None,
    baseline: Baseline = True,
    full: FormerBaseline = None,
    check: Check = False,
) -> None:
    """Generate images with the unmodified model and with a compressed cache, and compare.

    Writes baseline.png, compressed.png, side_by_side.png and record.json; for several policies one sheet, policies.png. Of
    clips these are contact sheets, beside the clips under the same names.
    """
    from scalekv_core.cli import choice, clips, generating, jobs, record, saving, writing
    from scalekv_core.memory import fit, free
    from scalekv_core.pipeline import loading

    baseline = baseline if full is None else full
    chosen = choice.choose(policy, compression)
    writing.check_directory(out)
    policies = choice.policies_of(chosen)
    name = model or jobs.model_for(prompts)
    request = jobs.Request(
        prompts=prompts, seeds=seed, images=images, paired=paired, shape=shape, random_weights=random_weights
    )
    job = jobs.job_of(name, request, sampling=jobs.sampling_of(name, sampling), dtype=loading.read_dtype(place.dtype))
    kind = clips.kind_of_clips(name, job.batch.card, clip)
    memory = free.memory_for_process(loading.read_device(place.device))
    given = loading.load_profile(compression.profile)
    plans = choice.plan_all(job, chosen, policies, given or loading.profile_of(job.batch, place.weights), memory=memory)
    if baseline:
        fit.check_baseline_fits(
            job.batch,
            memory=memory,
            suggestion="the compressed run fits: leave the comparison out with --no-baseline",
        )
    writing.check_files(out, saving.names([one.policy for one in plans], baseline=baseline, clips=kind))
    loaded = loading.load_model(
        job.batch, weights=place.weights, device=place.device, allow_nonfinite=place.allow_nonfinite
    )
    unmodified = generating.generate_unmodified(loaded, job) if baseline else None
    generated = [generating.generate_compressed(loaded, job, one, unmodified=unmodified, check=check) for one in plans]
    facts = record.record(
        loaded,
        job,
        generated,
        arguments=ctx.obj or (),
        weights="random" if random_weights else place.weights,
        device=place.device,
        profile=given,
        profile_file=compression.profile,
    )
    names = saving.save(out, facts, loaded.name, job, generated, unmodified, clips=kind)
    with console.naming(f"the pictures are in {out}"):
        print_figures(generated, job.labels)
        console.heading(f"written to {out}: {', '.join(names)}")
        if saving.FORMER_BASELINE in names:
            console.say(f"{saving.FORMER_BASELINE} is {saving.BASELINE} under its former name, for the last time")


def print_figures(generated: Sequence[Generated], labels: Sequence[str]) -> None:
    """The tables: in detail for one policy, a line each for several."""
    from scalekv_core.cli import clips, tables

    if len(generated) > 1:
        tables.print_comparison(generated)
        return
    console.heading(f"{generated[0].policy.name}, {generated[0].image.planned.budget}")
    tables.print_memory(generated[0])
    tables.print_fidelity(generated[0])
    clips.print_frames(generated[0], labels)
