"""What ``scalekv compare``, ``report`` and ``recommend`` share: from options to a question, from a study to tables."""

from __future__ import annotations

import csv
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalekv_core.cli import console, defaults
from scalekv_core.cli.arguments import SamplingOptions, Shape
from scalekv_core.cli.compare import Asked, Run
from scalekv_core.cli.figures import number, percent
from scalekv_core.cli.installed import the_registry
from scalekv_core.cli.jobs import sampling_changes
from scalekv_core.cli.loading import read_device, read_dtype
from scalekv_core.compare.engines import Engine
from scalekv_core.compare.prompts import named_sets, prompts_named
from scalekv_core.compare.question import Question
from scalekv_core.compare.question_file import QuestionFile
from scalekv_core.compare.ranking import Interval
from scalekv_core.compare.ray_engine import RayEngine
from scalekv_core.compare.results import Results, Row, recommend, results_of
from scalekv_core.compare.store import Store
from scalekv_core.compare.study import Study, StudyPlan, failures, plan_study, unmeasured
from scalekv_core.compare.worker import Loading
from scalekv_core.errors import InputError, missing_extra, unknown_name
from scalekv_core.models.card import ModelCard
from scalekv_core.planning.budget import read_bytes
from scalekv_core.shapes.geometry import format_bytes, plural

METRICS = ("psnr", "ssim", "agreement", "forced-kl")
ENGINES = ("in-process", "ray")


def ask(asked: Asked, shape: Shape, options: SamplingOptions, *, dtype: str | None) -> Question:
    """The question of the command line and a file together; the command line wins.

    Raises:
        InputError, UnknownName: something is not there, or of another form.
    """
    told = QuestionFile() if asked.file is None else QuestionFile.load(asked.file)
    chosen = tuple(asked.models or told.models or (defaults.MODEL,))
    read_dtype(dtype or told.dtype or "float32")
    return Question(
        models=chosen,
        policies=tuple(asked.policies or told.policies or every_policy()),
        budgets=tuple(asked.budgets or told.budgets or ("10%",)),
        codecs=tuple(asked.codecs or told.codecs),
        vary=dict(told.vary) | dict(_read_vary(text) for text in asked.vary or ()),
        prompts={name: _prompts_of(name, asked.prompts or (), told.prompts) for name in chosen},
        seeds=tuple(asked.seeds or told.seeds or (0,)),
        sampling={**told.sampling, **sampling_changes(options)},
        aspect=shape.aspect or told.aspect,
        size=shape.size or told.size,
        dtype=dtype or told.dtype,
        metrics=tuple(asked.metrics or told.metrics or METRICS),
        batch=asked.batch or told.batch or 1,
    )


def every_policy() -> tuple[str, ...]:
    """The installed policies that need no table of their own, sorted."""
    registry = the_registry()
    return tuple(n for n in registry.names("policy") if not registry.make("policy", n).allocator.only_for)


def _read_vary(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, values = text.partition("=")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not (name.strip() and equals and found):
        raise InputError(f"--vary takes an option and its values, such as window=4,16,64; got {text!r}")
    return name.strip(), found


def _prompts_of(model: str, given: Sequence[str], told: Mapping[str, str]) -> tuple[str, ...]:
    """A model's prompts: those named for it, those named for all, or the set that it accepts."""
    named = dict(text.split("=", 1) for text in given if "=" in text)
    for_all = [text for text in given if "=" not in text]
    chosen = named.get(model) or (for_all[-1] if for_all else None) or told.get(model)
    if chosen is not None:
        return prompts_named(chosen)
    card: ModelCard = the_registry().make("model", model)
    for name in named_sets():
        prompts = prompts_named(name)
        if all(card.accepts(prompt) for prompt in prompts):
            return prompts
    if card.needs_weights:
        return prompts_named("written")
    raise InputError(f"no set of prompts is in the language of model {model!r}; give --prompts FILE")


def run(question: Question, how: Run, *, plan_only: bool) -> None:
    """Plans, runs what is missing, and prints the ranking."""
    engine = make_engine(how.engine, how.address, how.workers)
    read_device(how.device)
    loading = Loading(question=question, weights=_weights(how.weights, question.models), device=how.device)
    registry = the_registry()
    with console.busy("loading the models"):
        models = {name: loading.model(name, registry) for name in question.models}
    plan = plan_study(question, models, registry)
    tell_plan(plan)
    if plan_only:
        return
    command = shlex.join(["scalekv", *sys.argv[1:]])
    study = Study.begin(plan, how.out, models, loading=loading, registry=registry, engine=engine, command=command)
    models.clear()  # a worker loads its own
    follow(study)
    study.finish()
    tell_results(study.store, how.out)
    if missing := study.missing():
        console.complain(
            f"{plural(missing, 'cell')} of {plan.cells} not finished: {', '.join(study.store.others) or 'another process'} "
            "works at the same study; the same command shows them when they are done"
        )
    study.store.close()


def make_engine(name: str | None, address: str, workers: int | None) -> Engine | None:
    """The engine of the command line; None runs in this process."""
    if name is not None and name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if name == "ray" or workers is not None:
        return RayEngine(address=address, workers=workers)
    return None


def _weights(given: Sequence[str] | None, models: Sequence[str]) -> dict[str, Path]:
    found = {}
    for text in given or ():
        model, equals, path = text.partition("=")
        if not equals:
            if len(models) > 1:
                raise InputError(f"--weights {text!r}: say whose, MODEL=PATH, since the study has {len(models)} models")
            model, path = models[0], text
        if model not in models:
            raise InputError(f"--weights {text!r} names model {model!r}, which the study does not have")
        found[model] = Path(path)
    return found


def follow(study: Study) -> None:
    """Runs the study with a bar on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console.err, transient=True, disable=not console.err.is_terminal) as bar:
        task = bar.add_task("cells", total=study.plan.cells, completed=study.store.cells)
        for progress in study.run():
            bar.update(task, completed=progress.done, description=progress.setting.label)


def tell_plan(plan: StudyPlan) -> None:
    """What will run, how much each setting holds, and what cannot be measured."""
    question = plan.question
    images = sum(len(question.images(model)) for model in question.models)
    settings = len(plan.measured)
    console.say(
        f"{plural(settings, 'setting')} x {plural(images, 'image')} = {plan.cells} cells, beside the unmodified images; "
        f"metrics: {', '.join(question.metrics)}"
    )
    table = console.table("model", "setting", "cache held", "of unmodified", text=("model", "setting"))
    for one in plan.settings:
        if one.footprint is not None:
            share = one.footprint.most_planned / one.footprint.unmodified
            console.row(
                table, one.setting.model, one.setting.label, format_bytes(one.footprint.most_planned), percent(share)
            )
    console.out.print(table)
    for one in plan.refused:
        console.complain(f"{one.setting.label!r} is not measured: {one.refused}")
    for metric, model, own in unmeasured(question, the_registry()):
        console.complain(f"metric {metric!r} has no figures of model {model!r}: it measures {own} only")


def tell_results(store: Store, folder: Path) -> None:
    """The ranking of each model by its last metric, and what failed."""
    for results in results_of(store, the_registry()):
        metric = store.question["metrics"][-1]
        console.heading(f"{results.model}, {plural(len(results.images), 'image')}: ranked by {metric}")
        console.out.print(ranking_table(results, metric))
    for label, reason, images in failures(store):
        console.complain(f"{label!r} has no figures for {plural(images, 'image')}: {reason}")
    console.say(f"study: {folder}; scalekv report {folder} writes it as a page")


def ranking_table(results: Results, metric: str) -> Any:
    """Settings from best to worst; those of one rank cannot be told apart by these images. Only the metric that they are
    ranked by has its interval: the report has them all."""
    others = [n for n in results.metrics if n != metric and any(n in row.figures for row in results.rows)]
    table = console.table("rank", "setting", metric, *others, "held", "time", text=("setting",))
    table.columns[1].no_wrap = True
    for one in results.ranked(metric):
        row = results.row(one.key)
        figures = [brief(results.summary(row, name).value) if name in row.figures else "" for name in others]
        held = "" if row.resident_bytes is None else format_bytes(row.resident_bytes)
        console.row(table, one.rank, row.label, show(one.figure), *figures, held, show_ratio(row))
    return table


def show(figure: Interval) -> str:
    """A figure with half the width of its interval; infinity and not-a-number by their names.

    >>> show(Interval(value=1.0, low=0.5, high=1.5, images=4)), show(Interval(value=math.inf, low=1, high=math.inf, images=1))
    ('1.000 ± 0.500', 'identical')
    """
    spread = (figure.high - figure.low) / 2
    missing = f" ({figure.missing} missing)" if figure.missing else ""
    if not math.isfinite(figure.value) or not math.isfinite(spread):
        return brief(figure.value) + missing
    return f"{number(figure.value)} ± {number(spread)}{missing}"


def brief(value: float) -> str:
    """A figure alone.

    >>> brief(math.nan), brief(math.inf), brief(21.3456)
    ('no number', 'identical', '21.346')
    """
    return "no number" if math.isnan(value) else "identical" if math.isinf(value) else number(value)


def show_ratio(row: Row) -> str:
    """Seconds by those of the unmodified model in the same batch: the median."""
    ratios = row.seconds / row.unmodified_seconds
    return "" if np.isnan(ratios).all() else number(float(np.nanmedian(ratios)), 2)


def tell_recommendation(folder: Path, memory: str, metric: str | None) -> None:
    """The best setting that fits, the runner-up, and the price of half the memory."""
    store = Store.open(folder)
    by, size = metric or store.question["metrics"][-1], read_bytes(memory)
    if by not in store.question["metrics"]:
        raise unknown_name("metric of this study", by, store.question["metrics"])
    for results in results_of(store, the_registry()):
        found = recommend(results, size, by)
        console.heading(f"{results.model}, {format_bytes(size)} for the cache, best {by}")
        table = console.table("", "setting", by, "peak", text=("", "setting"))
        for what, row in (("best", found.best), ("second", found.second), ("in half the memory", found.half)):
            if row is not None:
                console.row(table, what, row.label, show(results.summary(row, by)), format_bytes(row.peak_bytes or 0))
        console.out.print(table)


def export(folder: Path, file: Path) -> None:
    """One line for every image and metric, as CSV, JSON lines or Parquet.

    Raises:
        InputError: another ending, no study, or the file cannot be written.
    """
    writers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if file.suffix not in writers:
        raise InputError(f"--export writes {', '.join(writers)}; got {file}")
    cursor = Store.open(folder).db.execute("SELECT * FROM result")
    names = [column[0] for column in cursor.description]
    try:
        writers[file.suffix](file, names, cursor.fetchall())
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error


def _csv(file: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([names, *rows])


def _jsonl(file: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            plain = [None if isinstance(x, float) and not math.isfinite(x) else x for x in row]
            infinite = isinstance(row[names.index("value")], float) and math.isinf(row[names.index("value")])
            record = dict(zip(names, plain, strict=True))
            record["note"] = "infinite" if infinite else record["note"]
            out.write(json.dumps(record, allow_nan=False) + "\n")


def _parquet(file: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", "scalekv compare --export FILE.parquet") from error
    columns = (
        dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {name: [] for name in names}
    )
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
