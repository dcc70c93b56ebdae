"""Writes the picture of README, docs/images/strip.png: ``python docs/strip.py``.

It is the sheet of ``scalekv generate`` for the captions of ``make demo`` under two policies: the unmodified images above,
then for each policy its images, their difference maps, and its share of the unmodified cache.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from scalekv_core.cli import main

PICTURE = Path(__file__).parent / "images" / "strip.png"
PROMPTS = ("a red circle left of a blue square", "three yellow triangles", "a green circle above a red triangle")
POLICIES = ("--policy", "scalekv", "--policy", "fold", "--budget", "10%")


def write() -> None:
    """Generates the images and keeps the sheet."""
    with tempfile.TemporaryDirectory() as out:
        try:
            main(["generate", *PROMPTS, *POLICIES, "--out", out])
        except SystemExit as ended:
            if ended.code:
                raise
        PICTURE.parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(out) / "policies.png", PICTURE)


if __name__ == "__main__":
    write()
