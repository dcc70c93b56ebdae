"""The sheets that ``scalekv generate`` writes: what compression does to the images and to the memory, at a glance."""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image

from scalekv_core.cli.defaults import AMPLIFY
from scalekv_core.cli.drawing import Drawn
from scalekv_core.cli.loading import Job
from scalekv_core.cli.tables import decibel, number, share
from scalekv_core.compare.pictures import Row, as_images, difference, sheet
from scalekv_core.models.image_model import Generation
from scalekv_core.shapes.geometry import format_bytes


def side_by_side(model: str, job: Job, drawn: Drawn, reference: Generation) -> Image.Image:
    """Full above compressed above the amplified difference; one column per image, with its PSNR."""
    compressed = drawn.generation.images
    apart = difference(compressed, reference.images, amplify=AMPLIFY)
    rows = [
        full_row(drawn, reference),
        policy_row(drawn),
        Row(images=as_images(apart), title="difference", lines=(f"absolute, {AMPLIFY} times",)),
    ]
    columns = job.labels
    if drawn.fidelity is not None:
        columns = [f"{name}: {decibel(psnr)}" for name, psnr in zip(columns, drawn.fidelity.image_psnr, strict=True)]
    return sheet(rows, columns=columns, heading=heading(model, job))


def policy_sheet(model: str, job: Job, drawn: Sequence[Drawn], reference: Generation | None) -> Image.Image:
    """One row per policy, below what the unmodified model draws; the bar is the memory, the whole of it unmodified."""
    rows = [] if reference is None else [full_row(drawn[0], reference)]
    return sheet([*rows, *map(policy_row, drawn)], columns=job.labels, heading=heading(model, job))


def full_row(drawn: Drawn, reference: Generation) -> Row:
    """The unmodified model's images."""
    held = format_bytes(drawn.image.planned.footprint.unmodified)
    return Row(images=as_images(reference.images), title="unmodified", lines=(f"holds {held}",), share=1.0)


def policy_row(drawn: Drawn) -> Row:
    """The images of a policy, what it holds, and how far it is from the unmodified model."""
    figures = drawn.report.as_dict()
    held = share(drawn)
    lines = [figures["budget"], f"holds {format_bytes(figures['resident_bytes'])} ({held:.1%})"]
    if drawn.fidelity is not None:
        ssim = number(drawn.fidelity.ssim)
        differs = f"PSNR {decibel(drawn.fidelity.psnr)}" + (f", SSIM {ssim}" if ssim else "")
        lines.append("identical images" if drawn.fidelity.identical else differs)
    return Row(images=as_images(drawn.generation.images), title=drawn.policy.name, lines=lines, share=held)


def heading(model: str, job: Job) -> str:
    """What the columns have in common."""
    seeds = sorted(set(job.seeds))
    return f"{model}, seed {seeds[0]}" if len(seeds) == 1 else f"{model}, seeds {seeds[0]} to {seeds[-1]}"


def slug(name: str) -> str:
    """A policy's name as part of a file name.

    >>> slug("scalekv selector=h2o")
    'scalekv-selector-h2o'
    """
    return re.sub(r"[^\w.]+", "-", name).strip("-")
