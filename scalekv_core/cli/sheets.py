"""The sheets that ``scalekv generate`` writes: what compression does to the images and to the memory, at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from PIL import Image

from scalekv_core.cli.defaults import AMPLIFY
from scalekv_core.cli.figures import decibel, number, percent
from scalekv_core.cli.generating import Generated
from scalekv_core.cli.tables import share
from scalekv_core.compare.pictures import Row, as_images, difference, sheet
from scalekv_core.models.image_model import Generation
from scalekv_core.pipeline.job import Job
from scalekv_core.shapes.geometry import format_bytes

IMAGE, CONTACT_SHEET = 144, 288
"""Pixels of a picture's width on the sheet of several policies."""
NOTE = f"right of each image: its absolute difference to the unmodified image, {AMPLIFY} times"


def side_by_side(model: str, job: Job, generated: Generated, unmodified: Generation) -> Image.Image:
    """Unmodified above compressed above the amplified difference; one column per image, with its PSNR."""
    rows = [
        unmodified_row(generated, unmodified),
        policy_row(generated),
        Row(images=differences(generated, unmodified), title="difference", lines=(f"absolute, {AMPLIFY} times",)),
    ]
    columns = job.labels
    if generated.fidelity is not None:
        columns = [
            f"{name}: {decibel(psnr)}" for name, psnr in zip(columns, generated.fidelity.image_psnr, strict=True)
        ]
    return sheet(rows, columns=columns, heading=heading(model, job))


def policy_sheet(model: str, job: Job, generated: Sequence[Generated], unmodified: Generation | None) -> Image.Image:
    """One row per policy, below the unmodified model's: its images, each beside its difference map, and its memory as a
    share of the unmodified model's.
    """
    cell = CONTACT_SHEET if generated[0].generation.is_clip else IMAGE
    if unmodified is None:
        return sheet([policy_row(one) for one in generated], columns=job.labels, heading=heading(model, job), cell=cell)
    rows = [attrs.evolve(policy_row(one), beside=differences(one, unmodified)) for one in generated]
    first = unmodified_row(generated[0], unmodified)
    return sheet([first, *rows], columns=job.labels, heading=heading(model, job), note=NOTE, cell=cell)


def differences(generated: Generated, unmodified: Generation) -> list[Image.Image]:
    """The absolute difference of each image to the unmodified one, amplified."""
    return as_images(difference(generated.generation.images, unmodified.images, amplify=AMPLIFY))


def unmodified_row(generated: Generated, unmodified: Generation) -> Row:
    """The unmodified model's images."""
    held = format_bytes(generated.image.planned.footprint.unmodified)
    return Row(images=as_images(unmodified.images), title="unmodified", lines=(f"cache {held}",), share=1.0)


def policy_row(generated: Generated) -> Row:
    """The images of a policy, its memory, and how far it is from the unmodified model."""
    figures = generated.report.as_dict()
    held = share(generated)
    lines = [figures["budget"], f"cache {format_bytes(figures['resident_bytes'])} ({percent(held)})"]
    if generated.fidelity is not None:
        ssim = number(generated.fidelity.ssim)
        differs = f"PSNR {decibel(generated.fidelity.psnr)}" + (f", SSIM {ssim}" if ssim else "")
        lines.append("identical images" if generated.fidelity.identical else differs)
        if generated.fidelity.has_nan:
            lines.append("nan: not a number")
    return Row(images=as_images(generated.generation.images), title=generated.policy.name, lines=lines, share=held)


def heading(model: str, job: Job) -> str:
    """What the columns have in common."""
    seeds = sorted(set(job.seeds))
    return f"{model}, seed {seeds[0]}" if len(seeds) == 1 else f"{model}, seeds {seeds[0]} to {seeds[-1]}"
