"""Where tasks run makes no difference to what they find; a worker that is lost costs nothing but time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scalekv_core.compare.engines import InProcess
from scalekv_core.compare.ray_engine import RayEngine
from scalekv_core.compare.results import results_of
from scalekv_core.compare.store import Store
from scalekv_core.compare.worker import Worker
from scalekv_core.errors import InputError, MissingExtra
from scalekv_core.plugins.registry import shared_registry
from tests.compare.conftest import StudyIn

ROOT = Path(__file__).parents[2]


def test_a_batch_is_generated_unmodified_once(study_in: StudyIn, tmp_path: Path) -> None:
    """The first task of a batch brings the unmodified images along, the others do not."""
    study = study_in(tmp_path)
    finished = list(InProcess(study.registry).run(study.plan.tasks, study.loading, lambda _: True))
    batches = [task.batch for task, _, baseline in finished if baseline is not None]

    assert [0, 1] == batches


def test_what_is_not_wanted_is_left_out(study_in: StudyIn, tmp_path: Path) -> None:
    """Nothing is loaded for it, either."""
    study = study_in(tmp_path)

    assert [] == list(InProcess(study.registry).run(study.plan.tasks, study.loading, lambda _: False))


def test_a_worker_finds_the_same_as_another(study_in: StudyIn, tmp_path: Path) -> None:
    """Figures and pictures are equal to the last bit."""
    study = study_in(tmp_path)
    task = next(study.plan.tasks)
    one, other = (Worker(study.loading, study.registry).run(task)[1] for _ in range(2))

    assert [(c.picture, [f.value for f in c.figures]) for c in one] == [
        (c.picture, [f.value for f in c.figures]) for c in other
    ]


def test_without_ray_its_extra_is_named(study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line."""
    monkeypatch.setitem(sys.modules, "ray", None)
    study = study_in(tmp_path)

    with pytest.raises(MissingExtra, match=r"pip install 'scalekv\[ray\]'"):
        next(RayEngine(workers=2).run(study.plan.tasks, study.loading, lambda _: True))


RAY = [
    sys.executable,
    "-m",
    "scalekv_core",
    "compare",
    "-p",
    "uniform",
    "-p",
    "full",
    "-b",
    "20%",
    "--prompts",
    "digits",
]


@pytest.mark.thorough
def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """Two workers of a local cluster, one of which is killed in mid-study: every cell is there, as without Ray."""
    pytest.importorskip("ray", reason="extra 'ray'")
    study = subprocess.Popen(
        [*RAY, "--out", str(tmp_path), "--workers", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        while study.poll() is None and not done(tmp_path):
            pass
        workers = subprocess.run(["pgrep", "-f", "ray::Worker"], capture_output=True, text=True).stdout.split()
        assert workers
        os.kill(int(workers[0]), signal.SIGKILL)
        assert 0 == study.wait(timeout=300), study.stderr and study.stderr.read()
    finally:
        study.kill()
    (results,) = results_of(Store.open(tmp_path), shared_registry())
    assert [10, 10] == [row.done for row in results.rows]
    assert [{}, {}] == [row.failed for row in results.rows]


def done(folder: Path) -> int:
    try:
        store = Store.open(folder)
    except InputError:
        return 0
    return int(store.db.execute("SELECT COUNT(*) FROM cell").fetchone()[0])


@pytest.mark.thorough
def test_an_address_that_nobody_answers_is_one_line(study_in: StudyIn, tmp_path: Path) -> None:
    """With the address."""
    pytest.importorskip("ray", reason="extra 'ray'")
    study = study_in(tmp_path)

    with pytest.raises(InputError, match=r"no Ray cluster answers at .127\.0\.0\.1:1."):
        next(RayEngine(address="127.0.0.1:1").run(study.plan.tasks, study.loading, lambda _: True))
