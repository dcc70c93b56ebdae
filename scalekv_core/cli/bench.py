"""``scalekv bench``: attention alone, or a whole transformer, at the sizes of real models and without their weights: seconds
and bytes of policies beside the unmodified cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalekv_core.cli import arguments as args
from scalekv_core.cli import console, defaults

if TYPE_CHECKING:
    from scalekv_core.bench import Bench, BenchResult, BenchSettings, Contender
    from scalekv_core.contracts.policy import Policy
    from scalekv_core.contracts.profile import AttentionProfile
    from scalekv_core.memory.batch import Batch
    from scalekv_core.planning.planner import Planned
    from scalekv_core.shapes.geometry import CacheGeometry

SHAPE = "What to measure"
POLICIES = ("full", "uniform", "snapkv", "h2o", "scalekv")
LAYERS, HEADS, HEAD_DIM = 32, 16, 128
"""Infinity-2B."""
MAPS = "1,2,4,6,8,12,16,20,24,32,40,48,64"
"""1024 x 1024."""
NONE = "none"

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME", help="Takes layers, heads and maps of a model; see [b]scalekv models[/b]. "
        "[dim]default: those of Infinity-2B[/dim]", rich_help_panel=SHAPE,
    ),
]  # fmt: skip


def _number(name: str, default: int) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{name}", min=1, metavar="N", help=f"[dim]default: {default}, or the model's[/dim]", rich_help_panel=SHAPE
    )
    return option


Layers = Annotated[int | None, _number("layers", LAYERS)]
Heads = Annotated[int | None, _number("heads", HEADS)]
HeadDim = Annotated[int | None, _number("head-dim", HEAD_DIM)]
Whole = Annotated[
    bool,
    typer.Option(
        "--whole", help="Measure the whole transformer of --model with random weights, not attention alone.",
        rich_help_panel=SHAPE,
    ),
]  # fmt: skip
BatchSize = Annotated[
    int | None,
    typer.Option("--batch", min=1, metavar="N", help="Images at once, two rows each.", rich_help_panel=SHAPE),
]
Aspect = Annotated[
    str | None,
    typer.Option("--aspect", metavar="W:H", help="Of the images; needs --model.", rich_help_panel=SHAPE),
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="NAME", help="Of the images, such as 1M; needs --model.", rich_help_panel=SHAPE),
]
Rows = Annotated[
    int | None,
    typer.Option(
        "--rows", min=1, metavar="N", help="Sequences in the batch, in place of --batch. [dim]default: 2[/dim]",
        rich_help_panel=SHAPE,
    ),
]  # fmt: skip
Maps = Annotated[
    str | None,
    typer.Option(
        "--maps", metavar="LIST", help="Sides of the maps: 1,2,4 or, where they are not square, 1x1,3x4. "
        "[dim]default: 1024 x 1024 of Infinity, or the model's[/dim]", rich_help_panel=SHAPE, show_default=False,
    ),
]  # fmt: skip
Drafters = Annotated[
    str | None,
    typer.Option(
        "--drafters", metavar="LIST", help="Layers that look far back, for policies that need a profile where none is "
        "given. [dim]default: every sixteenth[/dim]", rich_help_panel=args.COMPRESS,
    ),
]  # fmt: skip
Released = Annotated[
    str | None,
    typer.Option(
        "--released", metavar="NAME", help="Measure a stand-in for the released ScaleKV code too, down to the sizes of "
        f"this policy's plan, or {NONE}. [dim]default: {defaults.POLICY}, if it is there[/dim]",
        rich_help_panel=args.COMPRESS,
    ),
]  # fmt: skip
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Images that are timed.", rich_help_panel=args.RUN)]
Stages = Annotated[
    int,
    typer.Option("--stages", min=0, help="Further images, for the share of each stage.", rich_help_panel=args.RUN),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of torch. [dim]default: torch's own[/dim]", rich_help_panel=args.RUN)
]  # fmt: skip
ProcessorTime = Annotated[
    bool,
    typer.Option(
        "--processor-time", help="Count the processor's time, not the clock's: where others use the machine too. Best with "
        "--threads 1.", rich_help_panel=args.RUN,
    ),
]  # fmt: skip
EveryLayer = Annotated[
    bool,
    typer.Option(
        "--every-layer", help="Run all layers, instead of one of each kind that stands for the others.",
        rich_help_panel=args.RUN,
    ),
]  # fmt: skip
Seed = Annotated[int, typer.Option("--seed", help="Of the random queries, keys and values.", rich_help_panel=args.RUN)]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Writes all figures.", rich_help_panel=args.RUN)
]
Launches = Annotated[
    bool,
    typer.Option(
        "--launches", help="Count kernels and host time of each attend instead, on tiny tensors, for every policy and codec or "
        "for those of --policy.", rich_help_panel=SHAPE,
    ),
]  # fmt: skip
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--compare", metavar="A.json B.json", help="Measures nothing: shows two records side by side, if they are of the "
        "same thing.", rich_help_panel=args.RUN,
    ),
]  # fmt: skip
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE.png", help="Measures nothing: plots how the cost grows with tokens or with rows, whichever "
        "the records that --record names differ in.", rich_help_panel=args.RUN,
    ),
]  # fmt: skip
Records = Annotated[
    list[Path] | None,
    typer.Option("--record", metavar="FILE.json", help="A record for --plot (repeat it).", rich_help_panel=args.RUN),
]


def bench(
    ctx: typer.Context,
    model: Model = None,
    whole: Whole = False,
    batch: BatchSize = None,
    aspect: Aspect = None,
    size: Size = None,
    layers: Layers = None,
    heads: Heads = None,
    head_dim: HeadDim = None,
    rows: Rows = None,
    maps: Maps = None,
    policy: args.Policies = None,
    budget: args.Budget = None,
    option: args.Options = None,
    config: args.Config = None,
    profile: args.Profile = None,
    drafters: Drafters = None,
    released: Released = None,
    device: args.Device = "cpu",
    dtype: args.Dtype = "float32",
    threads: Threads = None,
    repeats: Repeats = 5,
    stages: Stages = 3,
    every_layer: EveryLayer = False,
    processor_time: ProcessorTime = False,
    seed: Seed = 0,
    json: Json = None,
    compare: Compare = None,
    plot: Plot = None,
    record: Records = None,
    launches: Launches = False,
) -> None:
    """Measure what policies cost beside the unmodified cache: seconds, shares and bytes.

    All contenders run in turn, in one run, with random numbers: no weights are needed. Ctrl-C shows what was measured so
    far. With --whole the time is that of generation, without reading the prompt and without decoding the image.
    """
    import torch

    from scalekv_core.bench import Bench, BenchSettings, check_bench_fits
    from scalekv_core.cli import bench_tables, choice, loading, writing
    from scalekv_core.errors import InputError

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
        writing.check_directory(json.parent)
    given = {"layers": layers, "heads": heads, "head_dim": head_dim, "rows": rows, "maps": maps}
    drawn = batch_of(model, loading.read_dtype(dtype), batch, aspect, size)
    if batch is not None and rows is not None:
        raise InputError(f"--rows takes the place of --batch; leave one of them out (got {rows} and {batch})")
    geometry = geometry_of(drawn, loading.read_dtype(dtype), given, images=batch or 1)
    if whole:
        check_whole(drawn, given)
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
        choice.choose(policy or POLICIES, args.Compression(config=config, budget=budget, option=option))
    )
    needed, note = profile_of(loading.load_profile(profile), geometry, drafters)
    contenders = contenders_of(settings, policies, needed, released)
    check_bench_fits(settings, contenders)
    running = Bench(settings, contenders, notes={"profile": note} if _needs_profile(contenders) else {})
    result = measure(running)
    bench_tables.print_result(result)
    if json is not None:
        save(result, json, ctx.obj or ())
    if not result.complete:
        raise typer.Exit(130)


def batch_of(model: str | None, dtype: Any, images: int | None, aspect: str | None, size: str | None) -> Batch | None:
    """What the model generates at once; None if none is named.

    Raises:
        InputError: it generates no such images, or no model is named that could.
    """
    from scalekv_core.cli.installed import model_card
    from scalekv_core.errors import InputError
    from scalekv_core.memory.batch import Batch

    if model is not None:
        return Batch(model=model, card=model_card(model), images=images or 1, aspect=aspect, size=size, dtype=dtype)
    if aspect is not None or size is not None:
        raise InputError("--aspect and --size are those of a model; name it with --model, or give --maps")
    return None


def check_whole(drawn: Batch | None, given: Mapping[str, Any]) -> None:
    """Raises InputError where a whole transformer cannot be measured."""
    from scalekv_core.errors import InputError

    if drawn is None:
        raise InputError("--whole measures the transformer of a model; name it with --model (see scalekv models)")
    if wrong := [name for name in ("heads", "head_dim", "rows", "maps") if given[name] is not None]:
        option = wrong[0].replace("_", "-")
        raise InputError(f"--whole takes {option} from the model; leave out --{option}, or measure attention alone")


def geometry_of(drawn: Batch | None, dtype: Any, given: Mapping[str, Any], *, images: int) -> CacheGeometry:
    """That of the model, or of Infinity-2B with so many images, with what was given in its place."""
    import attrs
    import torch

    from scalekv_core.bench import parse_maps
    from scalekv_core.shapes.geometry import CacheGeometry

    if drawn is not None:
        base = drawn.geometry
    else:
        base = CacheGeometry(
            schedule=parse_maps(MAPS), layers=LAYERS, heads=HEADS, head_dim=HEAD_DIM, unmodified_key_dtype=torch.float32,
            rows=2 * images,
        )  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    if "maps" in changes:
        changes["schedule"] = parse_maps(changes.pop("maps"))
    return attrs.evolve(base, dtype=dtype, **changes)


def profile_of(
    measured: AttentionProfile | None, geometry: CacheGeometry, drafters: str | None
) -> tuple[AttentionProfile, str]:
    """(profile, where it is from) for the policies that need one.

    Raises:
        InputError: both or neither can be meant, or the list is none of layers.
    """
    from scalekv_core.bench import assumed_profile, default_drafters
    from scalekv_core.errors import InputError

    if measured is not None:
        if drafters is not None:
            raise InputError("--drafters stands in for a profile; give either that or --profile")
        return measured, f"measured on {measured.model}"
    try:
        layers = default_drafters(geometry.layers) if drafters is None else tuple(map(int, drafters.split(",")))
    except ValueError as error:
        raise InputError(f"drafters are layers such as 0,16; got {drafters!r}") from error
    return assumed_profile(geometry, layers), f"assumed, not measured: drafters {','.join(map(str, layers))}"


def contenders_of(
    settings: BenchSettings,
    policies: Sequence[tuple[Policy, str | None]],
    profile: AttentionProfile,
    released: str | None,
) -> list[Contender]:
    """The unmodified cache, the policies, and the stand-in for the released code.

    Raises:
        BudgetError, ProfileError, ContractError: as :func:`~scalekv_core.planning.planner.plan_policy`.
        InputError: the stand-in is to follow a policy that is not there.
    """
    from scalekv_core.bench import PolicyContender, ReleasedCode, Unmodified
    from scalekv_core.cache.prefetch import reads_ahead
    from scalekv_core.planning.planner import plan_policy

    planned = [
        plan_policy(
            one,
            settings.geometry,
            budget=spent,
            profile=profile,
            ahead=reads_ahead(one.codec, settings.device),
        )
        for one, spent in policies
    ]
    every = settings.every_layer
    followed = followed_by_released(planned, released)
    return [
        Unmodified.of(settings.geometry, every_layer=every),
        *(PolicyContender.of(one, every_layer=every) for one in planned),
        *(ReleasedCode.of(one, every_layer=every) for one in followed),
    ]


def followed_by_released(planned: Sequence[Planned], released: str | None) -> list[Planned]:
    """The plan that the stand-in follows, or nothing."""
    from scalekv_core.errors import InputError

    found = [one for one in planned if one.policy.name.split(" ")[0] == (released or defaults.POLICY)]
    if released not in (None, NONE) and not found:
        raise InputError(f"--released {released} follows a policy that is not measured; add --policy {released}")
    return found


def _needs_profile(contenders: Sequence[Contender]) -> bool:
    return any(one.planned is not None and one.planned.policy.needs_profile for one in contenders)


def measure(running: Bench) -> BenchResult:
    """The whole measurement, or what there is of it when it is interrupted."""
    with progress(running.images) as tell:
        try:
            return running.run(tell)
        except KeyboardInterrupt:
            pass
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
        raise InputError("--record names what --plot FILE.png is to show; give both")
    writing.check_directory(path.parent)
    figure = figure_of_growth([read_record(one) for one in records])
    with writing.written_together(path.parent) as stage:
        figure.savefig(stage / path.name, dpi=100)
    console.say(f"written to {path}")
