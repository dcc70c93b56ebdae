"""A policy and a metric of somebody else's distribution in a study, in this process and on workers of Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from scalekv_core.app.server import free_port
from scalekv_core.compare.results import results_of
from scalekv_core.compare.store import Store
from scalekv_core.compare.worker import Worker
from scalekv_core.errors import InputError
from scalekv_core.plugins.registry import Registry
from tests.compare.conftest import StudyIn
from tests.compare.test_engines import wait_for

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "plugins"
ASKED = ("-p", "lottery", "-p", "uniform", "-b", "20%", "--prompts", "digits", "--batch", "5", "--metric", "psnr", "--metric", "brightness")  # fmt: skip


def with_plugin() -> dict[str, str]:
    """The environment of a machine where the distribution is installed."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(PLUGINS), *filter(None, sys.path)])}


def compare(folder: Path, *how: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scalekv_core", "compare", *ASKED, "--out", str(folder), *how]
    known = with_plugin() | environment
    return subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, timeout=500)


def check(folder: Path) -> None:
    """All cells are there; the store reads without the plugin, and says which one it was."""
    store = Store.open(folder)
    (results,) = results_of(store, Registry.installed())
    assert ["lottery 20%", "uniform 20%"] == [row.label for row in results.rows]
    assert [10, 10] == [row.done for row in results.rows]
    assert all(0 < row.figures["brightness"].mean() < 1 and not row.failed for row in results.rows)
    assert results.metrics["brightness"] is None
    assert "0.1" == store.environment["versions"]["scalekv-lottery"]


@pytest.mark.thorough
def test_a_policy_and_a_metric_of_a_plugin_are_compared(tmp_path: Path) -> None:
    """They are names like all others, and the study records their distribution."""
    ran = compare(tmp_path)

    assert 0 == ran.returncode, ran.stderr
    assert "ranked by brightness" in ran.stdout
    check(tmp_path)


@pytest.mark.thorough
def test_workers_of_ray_have_the_plugin_too(tmp_path: Path) -> None:
    """They find it as this process does."""
    pytest.importorskip("ray", reason="extra 'ray'")
    ran = compare(tmp_path, "--workers", "2")

    assert 0 == ran.returncode, ran.stderr
    check(tmp_path)


OPEN = {"RAY_AUTH_MODE": "disabled"}
"""On the loopback address, for the time of a test."""


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray cluster of this machine whose workers do not have the distribution."""
    pytest.importorskip("ray", reason="extra 'ray'")
    port = free_port("127.0.0.1", 0)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    command += [f"--port={port}", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats"]
    known = os.environ | OPEN | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("w") as said:
        head = subprocess.Popen(command, env=known, stdout=said, stderr=said)
    try:
        wait_for(lambda: head.poll() is not None or "Ray runtime started" in log.read_text())
        assert head.poll() is None, log.read_text()
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(timeout=60)


@pytest.mark.thorough
def test_a_cluster_without_the_plugin_is_one_line(cluster: str, tmp_path: Path) -> None:
    """Its worker says what to install and where; the study holds no cell, and goes on where the plugin is there."""
    ran = compare(tmp_path, "--engine", "ray", "--address", cluster, **OPEN)

    assert 2 == ran.returncode
    (line,) = (line for line in ran.stderr.splitlines() if line.startswith("scalekv: "))
    assert "scalekv: a worker cannot run the study: the study needs plugin scalekv-lottery 0.1; " in line
    assert "does not have it: install it there; what was finished is kept" in line
    assert "Traceback" not in ran.stderr
    assert 0 == Store.open(tmp_path).cells
    assert 0 == compare(tmp_path).returncode
    check(tmp_path)


def test_a_worker_without_the_plugin_is_one_line(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """Before it runs anything, with what to install and where."""
    study = study_in(tmp_path)
    task = next(iter(study.plan.tasks))
    worker = Worker(evolve(study.loading, plugins={"scalekv-lottery": "0.1"}), registry)

    with pytest.raises(
        InputError, match=r"the study needs plugin scalekv-lottery 0.1; .* does not have it: install it there"
    ):
        worker.run(task)
