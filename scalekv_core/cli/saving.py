"""The files of ``scalekv generate``: pictures, clips and the record, all of them or none."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalekv_core.cli.clips import frame_sheet, save_clips
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


def names(policies: Sequence[Policy], *, baseline: bool, clips: str | None = None) -> list[str]:
    """The files of a run under these policies, in the order in which they are told; of numbered frames the sheets alone.

    Args:
        policies: in order.
        baseline: whether the unmodified model generates, too.
        clips: the kind of file in which clips are written; None for images.
    """
    several = len(policies) > 1
    beside = Path(POLICIES if several else SIDE_BY_SIDE).stem
    plain = [*([Path(BASELINE).stem] if baseline else []), *_names_of(policies)]
    compared = [beside] if several or baseline else []
    sheets = [f"{name}.png" for name in plain]
    if clips is not None:
        written = [f"{name}.{clips}" for name in plain + compared if clips != "png"]
        return [*written, *sheets, *(f"{name}.png" for name in compared), RECORD]
    former = [FORMER_BASELINE] if baseline else []
    return [*sheets, *former, *(f"{name}.png" for name in compared), RECORD]


def save(
    out: Path,
    record: dict[str, Any],
    model: str,
    job: Job,
    generated: Sequence[Generated],
    unmodified: Generation | None,
    *,
    clips: str | None = None,
) -> list[str]:
    """Writes pictures, clips and record, all or none of them; returns their names.

    Raises:
        WritingError: they cannot be written; what was there before is left as it was.
    """
    files = names([one.policy for one in generated], baseline=unmodified is not None, clips=clips)
    with written_together(out, listed_in=RECORD) as stage:
        save_pictures(stage, model, job, generated, unmodified, clips=clips)
        frames = sorted({file.name for file in stage.iterdir()} - set(files))
        (stage / RECORD).write_text(as_json({**record, "files": [*files, *frames]}), encoding="utf-8")
    return files


def save_pictures(
    stage: Path,
    model: str,
    job: Job,
    generated: Sequence[Generated],
    unmodified: Generation | None,
    *,
    clips: str | None = None,
) -> None:
    """Every picture and clip of a run, into a directory."""
    several = len(generated) > 1
    compressed = _names_of([one.policy for one in generated])
    plain = {name: one.generation for name, one in zip(compressed, generated, strict=True)}
    if unmodified is not None:
        plain = {Path(BASELINE).stem: unmodified, **plain}
    for name, generation in plain.items():
        grid(as_images(generation.images), columns=job.columns).save(stage / f"{name}.png")
    if unmodified is not None and clips is None:
        shutil.copyfile(stage / BASELINE, stage / FORMER_BASELINE)
    if several:
        policy_sheet(model, job, generated, unmodified).save(stage / POLICIES)
    elif unmodified is not None:
        compared = side_by_side if clips is None else frame_sheet
        compared(model, job, generated[0], unmodified).save(stage / SIDE_BY_SIDE)
    if clips is not None:
        beside = Path(POLICIES if several else SIDE_BY_SIDE).stem
        save_clips(stage, plain, (beside, list(plain.values())), job, clips)


def _names_of(policies: Sequence[Policy]) -> list[str]:
    """What the pictures of each policy are called, without their ending."""
    one = Path(COMPRESSED).stem
    return [f"{one}-{slug(policy.name)}" for policy in policies] if len(policies) > 1 else [one]


def slug(name: str) -> str:
    """A policy's name as part of a file name.

    >>> slug("scalekv selector=h2o")
    'scalekv-selector-h2o'
    """
    return re.sub(r"[^\w.]+", "-", name).strip("-")
