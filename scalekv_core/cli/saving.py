"""The files of ``scalekv generate``: pictures and the record, all of them or none."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalekv_core.cli.generating import Generated
from scalekv_core.cli.record import as_json
from scalekv_core.cli.sheets import policy_sheet, side_by_side
from scalekv_core.cli.writing import written_together
from scalekv_core.compare.pictures import as_images, grid
from scalekv_core.contracts.policy import Policy
from scalekv_core.models.image_model import Generation
from scalekv_core.pipeline.job import Job

BASELINE, COMPRESSED, SIDE_BY_SIDE, POLICIES, RECORD = (
    "baseline.png",
    "compressed.png",
    "side_by_side.png",
    "policies.png",
    "record.json",
)
FORMER_BASELINE = "full.png"
"""What the baseline was called; written beside it until the next version."""


def names(policies: Sequence[Policy], *, baseline: bool) -> list[str]:
    """The files of a run under these policies, in the order in which they are told."""
    several = len(policies) > 1
    compressed = [f"compressed-{slug(policy.name)}.png" for policy in policies] if several else [COMPRESSED]
    sheet = POLICIES if several else SIDE_BY_SIDE
    return [
        *([BASELINE] if baseline else []),
        *compressed,
        *([FORMER_BASELINE] if baseline else []),
        *([sheet] if several or baseline else []),
        RECORD,
    ]


def save(
    out: Path,
    record: dict[str, Any],
    model: str,
    job: Job,
    generated: Sequence[Generated],
    unmodified: Generation | None,
) -> list[str]:
    """Writes pictures and record, all or none of them; returns their names.

    Raises:
        WritingError: they cannot be written; what was there before is left as it was.
    """
    files = names([one.policy for one in generated], baseline=unmodified is not None)
    with written_together(out, listed_in=RECORD) as stage:
        save_pictures(stage, model, job, generated, unmodified)
        (stage / RECORD).write_text(as_json({**record, "files": files}), encoding="utf-8")
    return files


def save_pictures(
    stage: Path, model: str, job: Job, generated: Sequence[Generated], unmodified: Generation | None
) -> None:
    """Every picture of a run, into a directory."""
    columns = len(set(job.seeds)) if len(set(job.seeds)) > 1 else len(job.prompts)
    several = len(generated) > 1
    plain = {f"compressed-{slug(one.policy.name)}.png" if several else COMPRESSED: one.generation for one in generated}
    if unmodified is not None:
        plain[BASELINE] = unmodified
    for name, generation in plain.items():
        grid(as_images(generation.images), columns=columns).save(stage / name)
    if unmodified is not None:
        shutil.copyfile(stage / BASELINE, stage / FORMER_BASELINE)
    if several:
        policy_sheet(model, job, generated, unmodified).save(stage / POLICIES)
    elif unmodified is not None:
        side_by_side(model, job, generated[0], unmodified).save(stage / SIDE_BY_SIDE)


def slug(name: str) -> str:
    """A policy's name as part of a file name.

    >>> slug("scalekv selector=h2o")
    'scalekv-selector-h2o'
    """
    return re.sub(r"[^\w.]+", "-", name).strip("-")
