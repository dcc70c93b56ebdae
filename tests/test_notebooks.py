"""The notebooks run, and the outputs that they hold are of such a run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 400_000
"""Bytes of a file, its pictures included."""


def code_of(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def texts(cell: dict[str, Any]) -> list[str]:
    """What a cell prints."""
    return ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]


@pytest.fixture
def notebooks() -> ModuleType:
    """What runs them."""
    pytest.importorskip("nbclient", reason="needs the extra 'notebook'")
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_there_and_small(file: Path) -> None:
    """Every cell was run once, in order, without an error or a warning; ``python docs/notebooks.py`` does that."""
    cells = code_of(json.loads(file.read_text(encoding="utf-8")))

    assert file.stat().st_size < LARGEST
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.get("name", output["output_type"]) for cell in cells for output in cell["outputs"]}
    assert kinds <= {"stdout", "display_data", "execute_result"}


@pytest.mark.thorough
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs(file: Path, notebooks: ModuleType) -> None:
    """From the first cell to the last; the bytes that it reports are those that it shows."""
    kept = code_of(json.loads(file.read_text(encoding="utf-8")))
    again = code_of(notebooks.run(file))

    for before, after in zip(kept, again, strict=True):
        assert [output["output_type"] for output in before["outputs"]] == [o["output_type"] for o in after["outputs"]]
        for mine, theirs in zip(texts(before), texts(after), strict=True):
            assert mine.partition(" dB")[1] or mine == theirs  # fidelity may differ in its last digit from CPU to CPU
