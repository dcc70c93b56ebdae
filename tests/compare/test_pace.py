"""The expected time of a study is that of its finished cells, and nothing where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv_core.compare.pace import Watch, expected, paces
from scalekv_core.compare.state import begun, cells_left
from scalekv_core.compare.store import Store
from scalekv_core.errors import InputError
from scalekv_core.plugins.registry import Registry
from tests.compare.conftest import StudyIn, asked


def at(store: Store, *finished: tuple[str, str]) -> None:
    """Says by whom and when the cells were finished, in the order in which they were."""
    for (cell,), (worker, second) in zip(
        store.db.execute("SELECT id FROM cell WHERE setting != 1 ORDER BY id").fetchall(), finished, strict=True
    ):
        store.db.execute(
            "UPDATE cell SET worker = ?, finished = ? WHERE id = ?", (worker, f"2026-01-01T00:{second}Z", cell)
        )


def test_the_time_between_two_sessions_is_not_counted(study_in: StudyIn, tmp_path: Path) -> None:
    """Each process counts from its first finished task; what it took to begin is in no task."""
    study = study_in(tmp_path)
    list(study.run())
    at(study.store, ("a", "00:00"), ("a", "00:10"), ("a", "00:30"), ("b", "50:00"), ("b", "50:10"), ("b", "50:20"))

    assert {"toy": pytest.approx((30 + 20) / 4)} == paces(study.store)


def test_nothing_is_guessed(study_in: StudyIn, tmp_path: Path) -> None:
    """Before there are two finished tasks there is no pace, and the model is named."""
    study = study_in(tmp_path)
    missing = cells_left(study.plan, study.store)

    assert {} == paces(study.store)
    assert {"toy": 6} == missing
    assert "known after the first cells" == str(expected(missing, paces(study.store)))
    assert "30 s" == str(expected(missing, {"toy": 5.0}))


def test_a_session_counts_its_own_cells(study_in: StudyIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has some, those of the sessions before."""
    study = study_in(tmp_path)
    tasks = list(study.plan.tasks)
    watch, clock = Watch(cells_left(study.plan, None), {"toy": 100.0}), iter([5.0, 7.0, 9.0])
    monkeypatch.setattr("scalekv_core.compare.pace.time.monotonic", lambda: next(clock))

    assert 600.0 == watch.expected().seconds
    watch.note(tasks[0])
    assert 500.0 == watch.expected().seconds
    watch.note(tasks[1])
    assert 8.0 == watch.expected().seconds


def test_what_was_begun_is_found_without_writing(study_in: StudyIn, tmp_path: Path, registry: Registry) -> None:
    """Nothing where there is nothing; another study is refused."""
    study = study_in(tmp_path / "a")
    models = {"toy": study.loading.model("toy", registry)}
    how = {"device": "cpu", "registry": registry}

    assert begun(study.plan, tmp_path / "b", models, **how) is None
    assert not (tmp_path / "b").exists()
    assert begun(study.plan, tmp_path / "a", models, **how) is not None
    other = study_in(tmp_path / "c", asked(seeds=(4,)))
    with pytest.raises(InputError, match="holds another study"):
        begun(other.plan, tmp_path / "a", models, **how)
