"""The script of ``make gpu`` at a small size on the CPU."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", DOCS / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_device_it_says_so_and_succeeds(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without a device it prints one line and writes nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert 0 == script.main(["--out", str(tmp_path / "out")])
    assert 1 == len(capsys.readouterr().out.splitlines())
    assert not (tmp_path / "out").exists()


def test_everything_is_measured_and_told(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes a record of the bench, a record of host times and a table; the page is unchanged."""
    monkeypatch.setattr(script, "POLICIES", ("full", "scalekv"))
    monkeypatch.setattr(script, "IMAGES", 1)
    page = script.PAGE.read_text(encoding="utf-8")

    assert 0 == script.main(["--device", "cpu", "--no-tests", "--out", str(tmp_path)])
    assert ["attend.json", "small.json"] == sorted(path.name for path in tmp_path.iterdir())
    attend = json.loads((tmp_path / "attend.json").read_text(encoding="utf-8"))["attend"]
    assert all(one["host"] > 0 and one["graph"] is None and one["null"]["graph"] for one in attend.values())
    table = script.table(tmp_path)
    for name in ("`unmodified`", "`full`", "`scalekv`", "`released`"):
        assert name in table
    assert page == script.PAGE.read_text(encoding="utf-8")


def test_the_page_has_the_place_of_the_table(script: ModuleType) -> None:
    """The page has a place for the table and shows the records."""
    found = script.BLOCK.search(script.PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert script.table(script.RECORDS) in found[0]
