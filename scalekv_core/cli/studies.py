"""``scalekv compare``: plans a study, runs what is missing, and prints the ranking."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from scalekv_core.cli import console
from scalekv_core.cli.compare import Run
from scalekv_core.cli.installed import the_registry
from scalekv_core.cli.study_tables import tell_plan, tell_results, tell_time
from scalekv_core.compare import merge
from scalekv_core.compare.checking import check_question
from scalekv_core.compare.compact import located
from scalekv_core.compare.engines import Engine
from scalekv_core.compare.export import export as write
from scalekv_core.compare.pace import Watch, paces
from scalekv_core.compare.question import Question
from scalekv_core.compare.ray_engine import RayEngine
from scalekv_core.compare.state import begun, cells_left
from scalekv_core.compare.store import Store
from scalekv_core.compare.study import Study
from scalekv_core.compare.study_plan import plan_study
from scalekv_core.compare.worker import Loading
from scalekv_core.errors import InputError, unknown_name
from scalekv_core.models.requests import read_device
from scalekv_core.shapes.geometry import plural

ENGINES = ("in-process", "ray")


def run(question: Question, how: Run, *, plan_only: bool, retry: bool = False) -> None:
    """Plans, runs what is missing, and prints the ranking."""
    engine = make_engine(how.engine, how.address, how.workers)
    read_device(how.device)
    loading = Loading(question=question, weights=_weights(how.weights, question.models), device=how.device)
    registry = the_registry()
    check_question(question, registry)
    with console.busy("loading the models"):
        models = {name: loading.model(name, registry) for name in question.models}
    plan = plan_study(question, models, registry)
    found = begun(plan, how.out, models, device=loading.device, registry=registry)
    tell_plan(plan)
    tell_time(plan, found, retry=retry)
    if plan_only:
        return
    command = shlex.join(["scalekv", *sys.argv[1:]])
    study = Study.begin(plan, how.out, models, loading=loading, registry=registry, engine=engine, command=command)
    if retry:
        study.retry()
    models.clear()  # the engine holds the one that it needs first
    try:
        follow(study)
    except KeyboardInterrupt:
        console.complain(f"interrupted with {study.done} of {plan.cells} cells; the same command runs the rest")
        raise typer.Exit(130) from None
    study.finish()
    tell_results(study.store, how.out)
    if missing := study.missing():
        console.complain(
            f"{plural(missing, 'cell')} of {plan.cells} not finished: {', '.join(study.store.others) or 'another process'} "
            "works at the same study; the same command shows them when they are done"
        )
    study.store.close()


def export(folder: Path, file: Path) -> None:
    """Writes the study in a folder in the format of the file's suffix."""
    write(Store.open(folder), file)


def take(studies: Sequence[Path], folder: Path) -> None:
    """Takes the settings of other studies into the one in a folder."""
    registry = the_registry()
    taken = merge.take(folder, [Store.open(located(study, registry)) for study in studies])
    console.say(f"took {plural(taken, 'setting')} into {folder}")


def make_engine(name: str | None, address: str, workers: int | None) -> Engine | None:
    """The engine of the command line; None runs in this process."""
    if name is not None and name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if name == "ray" or workers is not None:
        engine = RayEngine(address=address, workers=workers)
        engine.check()
        return engine
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
        if not path:
            raise InputError(f"--weights {text!r} names no file; give MODEL=PATH")
        found[model] = Path(path)
    return found


def follow(study: Study) -> None:
    """Runs the study, on a terminal with a bar and the time that the rest will take."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    text, left = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[left]}", markup=False)
    watch = Watch(cells_left(study.plan, study.store), paces(study.store))
    columns = (text, BarColumn(), MofNCompleteColumn(), left)
    with Bar(*columns, console=console.err, transient=True, disable=not console.err.is_terminal) as bar:
        shown = bar.add_task("cells", total=study.plan.cells, completed=study.done, left="")
        for progress in study.run():
            watch.note(progress.task)
            setting, rest = progress.task.setting.label, f"{watch.expected()} left"
            bar.update(shown, completed=progress.done, description=setting, left=rest)
