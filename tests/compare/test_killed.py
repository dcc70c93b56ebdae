"""kill -9 in the middle of a study, of its growth and of a merge: nothing that was finished is lost, nothing is there by half."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from scalekv_core.compare.merge import take
from scalekv_core.compare.picture_files import IMAGES
from scalekv_core.compare.store import Store
from tests.compare.conftest import StudyIn, asked

pytestmark = pytest.mark.thorough
ROOT = Path(__file__).parents[2]

PRELUDE = """
import os, shutil, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
import tests.compare.conftest as c
from scalekv_core.compare import store
from scalekv_core.compare.merge import take
from scalekv_core.plugins.registry import Registry
folder = Path({folder!r})
registry = Registry.of(c.toy, c.scalekv_policies, c.plugin)

def study(**changes):
    return c.planned(c.asked(**changes), registry)(folder)

def killed_at_call(number, function):
    calls = iter(range(number))
    def call(*given, **how):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **how)
    return call
"""

WORK = """
for number, _ in enumerate(study({asked}).run()):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""

GROW = """
store.Store.add_setting = killed_at_call(2, store.Store.add_setting)
study()
"""

COPY = """
def half(source, target):
    Path(target).write_bytes(Path(source).read_bytes()[:50])
    os.kill(os.getpid(), signal.SIGKILL)
shutil.copyfile = half
take(folder, [store.Store.open(Path(p)) for p in {others!r}])
"""

TAKE = """
store.Store.image = killed_at_call(3, store.Store.image)
take(folder, [store.Store.open(Path(p)) for p in {others!r}])
"""


def killed(script: str, folder: Path, **values: object) -> None:
    """Runs a script that kills its own process."""
    text = PRELUDE.format(path=[str(ROOT), *sys.path], folder=str(folder)) + script.format(**values)
    ended = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True)
    assert -9 == ended.returncode, ended.stderr


def cells(folder: Path) -> dict[str, int]:
    """{label of a setting: its cells}."""
    store = Store.open(folder)
    finished = store.cells_by_setting()
    found = {label: finished.get(key, 0) for key, label in store.labels.items()}
    store.close()
    return found


def check_whole(folder: Path) -> None:
    """No cell twice, every picture of a cell there with the bytes that name it, no figure without its cell."""
    store = Store.open(folder)
    assert [("ok",)] == store.rows("PRAGMA integrity_check")
    assert [] == store.rows("PRAGMA foreign_key_check")
    for (name,) in store.rows("SELECT DISTINCT file FROM cell WHERE file IS NOT NULL"):
        png = (folder / IMAGES / name).read_bytes()
        assert name == f"{hashlib.sha256(png).hexdigest()[:32]}.png"
    store.close()


ALL = {"full": 2, "uniform 50%": 2, "uniform 20%": 2}


def test_in_the_middle_of_a_study(study_in: StudyIn, tmp_path: Path) -> None:
    """After three tasks there are three; another process does the rest."""
    killed(WORK, tmp_path, asked="")

    assert 3 == sum(cells(tmp_path).values())
    list(study_in(tmp_path).run())
    assert ALL == cells(tmp_path)
    check_whole(tmp_path)


@pytest.mark.parametrize(
    ("script", "settings"), [(GROW, 1), (WORK, 3)], ids=["while settings are added", "while their cells run"]
)
def test_in_the_middle_of_growth(study_in: StudyIn, tmp_path: Path, script: str, settings: int) -> None:
    """All of the further settings are there or none; what the smaller study had stays, and the same command does the rest."""
    list(study_in(tmp_path, asked(policies=("uniform",), budgets=("50%",))).run())
    killed(script, tmp_path, asked="")

    assert settings == len(cells(tmp_path))
    assert 2 == cells(tmp_path)["uniform 50%"]
    list(study_in(tmp_path).run())
    assert ALL == cells(tmp_path)
    check_whole(tmp_path)


@pytest.mark.parametrize("script", [COPY, TAKE], ids=["while images are copied", "while cells are written"])
def test_in_the_middle_of_a_merge(study_in: StudyIn, tmp_path: Path, script: str) -> None:
    """Everything of the other studies is there or nothing; the same command takes it."""
    for name, budgets in (("mine", ("50%",)), ("other", ("20%",))):
        list(study_in(tmp_path / name, asked(policies=("uniform",), budgets=budgets)).run())
    others = [tmp_path / "other"]
    killed(script, tmp_path / "mine", others=[str(other) for other in others])

    assert {"uniform 50%": 2} == cells(tmp_path / "mine")
    check_whole(tmp_path / "mine")
    assert 1 == take(tmp_path / "mine", [Store.open(other) for other in others])
    assert {"uniform 50%": 2, "uniform 20%": 2} == cells(tmp_path / "mine")
    check_whole(tmp_path / "mine")
