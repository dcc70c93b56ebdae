"""Runs the notebooks of this folder and keeps their outputs: ``python docs/notebooks.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"
SECONDS = 300
"""Longest time of one cell."""


def run(file: Path) -> Any:
    """The notebook with the outputs of a new run; CellExecutionError names the cell that fails."""
    notebook: Any = nbformat.read(file, as_version=4)
    client = NotebookClient(
        notebook, timeout=SECONDS, coalesce_streams=True, resources={"metadata": {"path": str(file.parent)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of this machine say nothing
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("image/jpeg", None)  # PIL gives every image twice
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


if __name__ == "__main__":
    for file in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(run(file), file)
