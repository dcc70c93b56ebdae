"""``scalekv bench``: attention alone, or a whole transformer, at the sizes of real models and without their weights: seconds
and bytes of policies beside the unmodified cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scalekv_core.cli import arguments as args
from scalekv_core.cli import bench_options as options
from scalekv_core.cli import console, interrupts

if TYPE_CHECKING:
    from scalekv_core.bench import Bench, BenchResult


def bench(
    ctx: typer.Context,
    model: options.Model = None,
    whole: options.Whole = False,
    batch: options.BatchSize = None,
    aspect: options.Aspect = None,
    size: options.Size = None,
    layers: options.Layers = None,
    heads: options.Heads = None,
    head_dim: options.HeadDim = None,
    rows: options.Rows = None,
    maps: options.Maps = None,
    policy: args.Policies = None,
    budget: args.Budget = None,
    option: args.Options = None,
    config: args.Config = None,
    profile: args.Profile = None,
    drafters: options.Drafters = None,
    released: options.Released = None,
    device: args.Device = "cpu",
    dtype: args.Dtype = "float32",
    threads: options.Threads = None,
    repeats: options.Repeats = 5,
    stages: options.Stages = 3,
    every_layer: options.EveryLayer = False,
    processor_time: options.ProcessorTime = False,
    seed: options.Seed = 0,
    json: options.Json = None,
    compare: options.Compare = None,
    plot: options.Plot = None,
    record: options.Records = None,
    launches: options.Launches = False,
) -> None:
    """Measure what policies cost beside the unmodified cache: seconds, shares and bytes.

    All contenders run in turn, in one run, with random numbers: no weights are needed. Ctrl-C shows what was measured so
    far. With --whole the time is that of generation, without reading the prompt and without decoding the image.
    """
    import torch

    from scalekv_core.bench import Bench, BenchSettings, check_bench_fits
    from scalekv_core.cli import bench_setup, bench_tables, choice, writing
    from scalekv_core.errors import InputError
    from scalekv_core.pipeline import loading

    if compare is not None:
        print_comparison(*compare)
        return
    if plot is not None or record:
        save_plot(plot, record or ())
        return
    if launches:
        from scalekv_core.cli import bench_launches

        bench_launches.run(policy or (), json)
        return
    if json is not None:
        writing.check_file(json, "--json")
    given = {"layers": layers, "heads": heads, "head_dim": head_dim, "rows": rows, "maps": maps}
    drawn = bench_setup.batch_of(model, loading.read_dtype(dtype), batch, aspect, size)
    if batch is not None and rows is not None:
        raise InputError(f"--rows replaces --batch; give one of them (got {rows} and {batch})")
    geometry = bench_setup.geometry_of(drawn, loading.read_dtype(dtype), given, images=batch or 1)
    if whole:
        bench_setup.check_whole(drawn, given)
    settings = BenchSettings(
        geometry=geometry,
        device=loading.read_device(device),
        threads=threads or torch.get_num_threads(),
        repeats=repeats,
        clocked=stages,
        seed=seed,
        every_layer=every_layer,
        clock="processor" if processor_time else "wall",
        whole=drawn if whole else None,
    )
    policies = choice.policies_of(
        choice.choose(policy or options.POLICIES, args.Compression(config=config, budget=budget, option=option))
    )
    needed, note = bench_setup.profile_of(loading.load_profile(profile), geometry, drafters)
    contenders = bench_setup.contenders_of(settings, policies, needed, released)
    check_bench_fits(settings, contenders)
    running = Bench(settings, contenders, notes={"profile": note} if bench_setup.needs_profile(contenders) else {})
    result = measure(running)
    bench_tables.print_result(result)
    if json is not None:
        save(result, json, ctx.obj or ())
    if not result.complete:
        raise typer.Exit(130)


def measure(running: Bench) -> BenchResult:
    """The whole measurement, or what there is of it when it is interrupted."""
    with progress(running.images) as tell:
        try:
            return running.run(tell)
        except KeyboardInterrupt:
            interrupts.forget()
    console.complain("interrupted; these are the figures so far")
    return running.result()


@contextlib.contextmanager
def progress(images: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal; what it yields is told what comes next, once for every image."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console.err, transient=True, disable=not console.err.is_terminal) as bar:
        task = bar.add_task("starting", total=images)
        begun = iter(range(-1, images))
        next(begun)

        def tell(what: str) -> None:
            bar.update(task, description=what, completed=next(begun))

        yield tell


def save(result: BenchResult, path: Path, arguments: Sequence[str]) -> None:
    """Writes the record."""
    import datetime
    import shlex

    from scalekv_core.bench.figures import as_record
    from scalekv_core.cli import record, writing

    written = as_record(
        result,
        command=shlex.join(["scalekv", *arguments]) if arguments else None,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        versions=record.versions(),
    )
    with writing.written_together(path.parent) as stage:
        (stage / path.name).write_text(record.as_json(written), encoding="utf-8")
    console.heading(f"written to {path}")


def print_comparison(before: Path, after: Path) -> None:
    """The table of two records.

    Raises:
        InputError: they cannot be read, or are not of the same thing.
    """
    from scalekv_core.bench import compare_records, read_record
    from scalekv_core.cli import bench_tables

    bench_tables.print_comparison(compare_records(read_record(before), read_record(after)))


def save_plot(path: Path | None, records: Sequence[Path]) -> None:
    """Plots records of different maps, or of different rows.

    Raises:
        InputError: the file or the records are not named, cannot be read, or differ in more than one of the two.
        MissingExtra: matplotlib is not installed.
    """
    from scalekv_core.bench import figure_of_growth, read_record
    from scalekv_core.cli import writing
    from scalekv_core.errors import InputError

    if path is None:
        raise InputError("--record names the records that --plot FILE.png shows; give both")
    writing.check_file(path, "--plot")
    figure = figure_of_growth([read_record(one) for one in records])
    with writing.written_together(path.parent) as stage:
        figure.savefig(stage / path.name, dpi=100)
    console.say(f"written to {path}")
