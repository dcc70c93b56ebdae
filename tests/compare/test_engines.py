"""Where tasks run makes no difference to what they find; a worker that is lost costs nothing but time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from scalekv_core.compare.engines import InProcess
from scalekv_core.compare.ray_engine import RayEngine, _Crew
from scalekv_core.compare.results import results_of
from scalekv_core.compare.store import Store
from scalekv_core.compare.worker import Worker
from scalekv_core.errors import InputError, MissingExtra, ScaleKVError
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


RAY = (
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
)


@pytest.mark.thorough
def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """Two workers of a local cluster, one of which is killed in mid-study: every cell is there, as without Ray."""
    pytest.importorskip("ray", reason="extra 'ray'")
    command = [*RAY, "--out", str(tmp_path / "study"), "--workers", "2"]
    with (tmp_path / "said").open("w") as said:
        study = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
    try:
        wait_for(lambda: study.poll() is not None or cells_of(tmp_path / "study") > 2)
        workers = [pid for pid in descendants(study.pid) if "ray::Worker" in title(pid)]
        assert workers, (tmp_path / "said").read_text()
        os.kill(workers[0], signal.SIGKILL)
        assert 0 == study.wait(timeout=PATIENCE), (tmp_path / "said").read_text()
    finally:
        study.kill()
    (results,) = results_of(Store.open(tmp_path / "study"), shared_registry())
    assert [10, 10] == [row.done for row in results.rows]
    assert [{}, {}] == [dict(row.failed) for row in results.rows]


PATIENCE = 300.0
"""Seconds that a study of twenty cells may take on a busy machine before its test fails."""


def wait_for(happened: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not happened():
        assert time.monotonic() - start < PATIENCE
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    own = [int(word) for word in children.read_text().split()] if children.exists() else []
    return own + [further for child in own for further in descendants(child)]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""


def cells_of(folder: Path) -> int:
    try:
        return Store.open(folder).cells
    except ScaleKVError:
        return 0


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ray's own log files, up to 2.40
def test_a_worker_without_the_plugin_of_a_model_is_one_line(study_in: StudyIn, tmp_path: Path) -> None:
    """The toy model is known to this process only."""
    pytest.importorskip("ray", reason="extra 'ray'")
    study = study_in(tmp_path, engine=RayEngine(workers=1))

    with pytest.raises(InputError, match="a worker cannot run the study: no model is called 'toy'"):
        list(study.run())
    assert 0 == study.store.cells


def test_a_cluster_that_has_ended_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" takes the address of the environment, or of a file that a killed cluster leaves: Ray would wait for it for minutes."""
    pytest.importorskip("ray", reason="extra 'ray'")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")

    with pytest.raises(InputError, match=r"no Ray cluster answers at '127\.0\.0\.1:1' \(.*refused\)"):
        RayEngine(address="auto").check()


def test_no_cluster_on_this_machine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what starts one."""
    services = pytest.importorskip("ray._private.services", reason="extra 'ray'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)

    with pytest.raises(InputError, match="no Ray cluster runs on this machine; start one with ray start --head"):
        RayEngine(address="auto").check()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", r"no Ray cluster answers at '127\.0\.0\.1:1' \(.*refused\)"),
        ("ray://127.0.0.1:1", "no Ray cluster answers at 'ray://127"),
        ("nowhere", "a Ray cluster is 'local', 'auto' or HOST:PORT; got 'nowhere'"),
        ("host:port", "no Ray cluster answers at 'host:port'"),
    ],
)
def test_an_address_that_nobody_answers_is_one_line(address: str, said: str) -> None:
    """With the address, at once; nothing of Ray has begun."""
    pytest.importorskip("ray", reason="extra 'ray'")
    with pytest.raises(InputError, match=said):
        RayEngine(address=address).check()


def test_tasks_of_a_batch_go_to_the_worker_that_has_its_unmodified_images(study_in: StudyIn, tmp_path: Path) -> None:
    """Each worker takes a batch; when none is left, half of what another has yet to do. Each task runs once, and one whose
    worker is lost runs again."""
    study = study_in(tmp_path)
    ray = FakeRay(lose_first=True)
    crew = _Crew(ray, RayEngine(workers=2), study.loading, lambda _: True)
    finished = list(crew.run(study.plan.tasks))

    assert 3 == ray.hired
    assert sorted(map(str, study.plan.tasks)) == sorted(str(task) for task, _, _ in finished)


class FakeRay:
    """As much of Ray as a crew uses: actors run when their task is asked for, and the first task loses its worker."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self, *, lose_first: bool) -> None:
        self.hired, self._lose = 0, lose_first

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **_: object) -> Callable[[type], object]:
        def hire(_: object) -> object:
            self.hired += 1
            return SimpleNamespace(run=SimpleNamespace(remote=lambda task: (self.hired, task)))

        return lambda _: SimpleNamespace(remote=hire)

    def wait(self, running: list[object], num_returns: int) -> tuple[list[object], list[object]]:
        return running[:num_returns], running[num_returns:]

    def get(self, done: tuple[int, object]) -> tuple[object, list[object], None]:
        if self._lose:
            self._lose = False
            raise self.exceptions.RayError("its process is gone")
        return done[1], [], None
