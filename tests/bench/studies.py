"""What studies and their pages cost: ``python -m tests.bench.studies overhead|memory|page|ray``, from the root of the repository.

Nothing is asserted, since times depend on the machine; figures that other work on the machine disturbs are ratios of
processor time, or measured in turns.

- ``overhead``: processor time of a study on var-tiny beside generation itself, which takes place in ``generate``.
- ``memory``: resident memory that a study's process gains with 100 and with 10,000 cells, without generation.
- ``page``: seconds until a page of 10,000 cells is there in Chromium, and to sort and filter it.
- ``ray``: seconds per cell with one and with two workers, and what a cell takes beside its worker.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from attrs import evolve, frozen

from scalekv_core.compare import ray_engine
from scalekv_core.compare.cells import Cell, Figure
from scalekv_core.compare.engines import Engine
from scalekv_core.compare.page.contents import page_of
from scalekv_core.compare.page.write import write_page
from scalekv_core.compare.question import Question
from scalekv_core.compare.ray_engine import RayEngine
from scalekv_core.compare.study import Study
from scalekv_core.compare.study_plan import plan_study
from scalekv_core.compare.tasks import Task
from scalekv_core.compare.worker import Finished, Loading, Worker
from scalekv_core.plugins.registry import shared_registry
from tests.compare.synthetic import synthetic_study

POLICIES = ("uniform", "scalekv", "fold", "h2o", "snapkv")
METRICS = ("psnr", "ssim", "agreement", "forced-kl")


def study_in(folder: Path, *, prompts: int, seeds: int, engine: Engine | None = None) -> Study:
    """A study on var-tiny of ten settings."""
    question = Question(
        models=("var-tiny",),
        policies=POLICIES,
        budgets=("10%", "20%"),
        prompts={"var-tiny": tuple(map(str, range(prompts)))},
        seeds=tuple(range(seeds)),
        metrics=METRICS,
    )
    registry = shared_registry()
    loading = Loading(question=question, weights={}, threads=1)
    models = {name: loading.model(name, registry) for name in question.models}
    plan = plan_study(question, models, registry)
    return Study.begin(plan, folder, models, loading=loading, registry=registry, engine=engine)


def overhead() -> None:
    """Counts from the second task on: the first one loads and warms up."""
    model = type(shared_registry().make("model", "var-tiny").load())
    generate, spent = model.generate, 0.0

    def timed(*args: object, **kwargs: object) -> object:
        nonlocal spent
        start = time.process_time()
        try:
            return generate(*args, **kwargs)
        finally:
            spent += time.process_time() - start

    model.generate = timed
    with tempfile.TemporaryDirectory() as folder:
        running = study_in(Path(folder), prompts=5, seeds=1).run()
        next(running)
        generating, start = spent, time.process_time()
        cells = sum(1 for _ in running)
        total, generating = time.process_time() - start, spent - generating
    print(f"{cells} cells: {total / cells * 1e3:.1f} ms each, {generating / cells * 1e3:.1f} ms of it in generate, "
          f"overhead {100 * (total / generating - 1):.2f} %")  # fmt: skip


@frozen
class Nothing:
    """An engine that generates nothing and finishes every task."""

    def run(self, tasks: Iterable[Task], loading: Loading, wanted: Callable[[Task], bool]) -> Iterator[Finished]:
        figures = [Figure(metric=name, scale=k, value=0.5) for name in METRICS for k in range(-1, 10)]
        for task in tasks:
            if wanted(task):
                yield task, [Cell(prompt=p, seed=s, figures=figures, seconds=0.1) for p, s in task.images], None


def memory() -> None:
    """Each size in a process of its own, since a process never says that it needs less again."""
    for seeds in (1, 10, 100):
        command = [sys.executable, "-m", "tests.bench.studies", "memory-of", str(seeds)]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, end="")


def memory_of(seeds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        study = study_in(Path(folder), prompts=10, seeds=seeds, engine=Nothing())
        before, start = _resident(), time.process_time()
        cells = sum(1 for _ in study.run())
        gained, took = _resident() - before, time.process_time() - start
    print(f"{cells:6} cells: {gained / 2**20:.1f} MiB gained, {took / cells * 1e3:.2f} ms of the driver each; "
          f"peak of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")  # fmt: skip


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def page() -> None:
    """500 settings of 20 images, then 100 of 100."""
    from tests.compare.test_page_in_browser import Tab

    for settings, images in ((2, 1), (100, 20), (500, 20), (100, 100)):
        with tempfile.TemporaryDirectory() as folder:
            store = synthetic_study(Path(folder), settings=settings, images=images)
            file, start = Path(folder) / "report.html", time.process_time()
            write_page(page_of(store, shared_registry()), file)
            wrote = time.process_time() - start
            store.close()
            tab = Tab(file)
            opened = tab.js("return performance.getEntriesByType('navigation')[0].loadEventEnd")
            metrics = tab.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            busy = next(one["value"] for one in metrics if one["name"] == "TaskDuration")
            sort = tab.js(
                "const t = performance.now(); document.querySelectorAll('thead button')[0].click(); return performance.now() - t"
            )
            start = time.perf_counter()
            tab.type("filter", "uniform")
            narrowed = time.perf_counter() - start
            tab.driver.quit()
            print(f"{settings * images:6} cells ({settings} settings): written in {wrote:.1f} s, {file.stat().st_size / 1e6:.1f} MB; "
                  f"open after {opened / 1e3:.2f} s ({busy:.2f} s of its processor); sorted in {sort:.0f} ms, filtered in {narrowed * 1e3:.0f} ms")  # fmt: skip


class Timed(Worker):
    """A worker that says of a cell how long its whole task took, measured where it ran."""

    def run(self, task: Task) -> Finished:
        start = time.perf_counter()
        task, cells, baseline = super().run(task)
        took = time.perf_counter() - start
        return task, [evolve(cell, seconds=took) for cell in cells], baseline


def ray() -> None:
    """From the second finished task on, so that starting and loading do not count. Two workers gain nothing where other
    work has the processors."""
    ray_engine.Worker = Timed  # type: ignore[misc]
    took: dict[int, float] = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            study = study_in(Path(folder), prompts=3, seeds=1, engine=RayEngine(workers=workers))
            turns = [time.perf_counter() for _ in study.run()][1:]
            inside = [
                row[0]
                for row in study.store.rows("SELECT seconds FROM cell WHERE selection_share IS NOT NULL ORDER BY id")
            ][2:]
        gaps = [after - before for before, after in itertools.pairwise(turns)]
        took[workers] = statistics.mean(gaps)
        print(f"workers {workers}: {took[workers] * 1e3:.0f} ms per cell")
        if workers == 1:
            rest = statistics.median(gap - own for gap, own in zip(gaps, inside, strict=True))
            print(f"beside its worker a cell takes {rest * 1e3:.1f} ms: Ray, and the store")
    print(f"efficiency of 2 workers {100 * took[1] / took[2] / 2:.0f} %")


def main() -> None:
    """One of the four, by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "memory", "memory-of", "page", "ray"])
    parser.add_argument("seeds", nargs="?", type=int, default=1, help="of memory-of, which memory starts")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    measure = {"overhead": overhead, "memory": memory, "page": page, "ray": ray}
    measure.get(asked.what, lambda: memory_of(asked.seeds))()


if __name__ == "__main__":
    main()
