"""What ``scalekv generate`` writes and prints where a model generates clips: files, contact sheets, figures by frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from scalekv_core.cli import console
from scalekv_core.cli.defaults import AMPLIFY
from scalekv_core.cli.figures import decibel, number
from scalekv_core.cli.generating import Generated
from scalekv_core.cli.sheets import heading, policy_row, unmodified_row
from scalekv_core.compare.clips import KINDS, check_kind, frames_beside, frames_in_rows, write_frames
from scalekv_core.compare.pictures import Row, as_images, difference, sheet, shown_frames
from scalekv_core.errors import InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import Generation
from scalekv_core.pipeline.job import Job

COLUMNS = 6
"""Frames of a clip on a sheet that compares two."""
LINES = 16
"""Frames of a clip in a table."""


def kind_of_clips(model: str, card: ModelCard, given: str | None) -> str | None:
    """The kind of file in which clips are written; None for a model of images.

    Raises:
        InputError: it is none, or the model generates images.
        MissingExtra: the package that writes it is not installed.
    """
    if card.fps is None:
        if given is not None:
            raise InputError(f"model {model!r} generates images, no clips; leave out --clip")
        return None
    kind = given or KINDS[0]
    check_kind(kind)
    return kind


def save_clips(
    stage: Path, clips: dict[str, Generation], beside: tuple[str, Sequence[Generation]], job: Job, kind: str
) -> None:
    """Writes every clip, and all of them side by side.

    Args:
        stage: the directory.
        clips: {name without ending: what was generated}.
        beside: name without ending, and what stands side by side; nothing is written of fewer than two.
        job: their prompts and seeds.
        kind: of the files.
    """
    fps = job.batch.card.fps or 1
    for name, generation in clips.items():
        write_frames(frames_in_rows(generation.frames, columns=job.columns), stage / f"{name}.{kind}", fps=fps)
    name, shown = beside
    if len(shown) > 1:
        frames = frames_beside(generation.frames.cpu() for generation in shown)
        write_frames(frames, stage / f"{name}.{kind}", fps=fps)


def frame_sheet(model: str, job: Job, generated: Generated, unmodified: Generation) -> Image.Image:
    """Unmodified above compressed above the amplified difference, for every clip; some of its frames side by side.

    Its columns are frames with their PSNR, where there is one clip.
    """
    chosen = shown_frames(unmodified.frames.shape[2], most=COLUMNS)
    mine, theirs = (one.frames[:, :, chosen].transpose(1, 2) for one in (generated.generation, unmodified))
    rows, several = [], len(mine) > 1
    for label, compressed, reference in zip(job.labels, mine, theirs, strict=True):
        apart = difference(compressed, reference, amplify=AMPLIFY)
        for row, frames in (
            (unmodified_row(generated, unmodified), reference),
            (policy_row(generated), compressed),
            (Row(images=(), title="difference", lines=(f"absolute, {AMPLIFY} times",)), apart),
        ):
            title = f"{row.title}: {label}" if several else row.title
            rows.append(Row(images=as_images(frames), title=title, lines=row.lines, share=row.share))
    return sheet(rows, columns=[_label(generated, frame) for frame in chosen], heading=heading(model, job))


def print_frames(generated: Generated, labels: Sequence[str]) -> None:
    """PSNR and SSIM of the frames of every clip to the unmodified ones; of a long clip of some of them, evenly between."""
    fidelity = generated.fidelity
    if fidelity is None or fidelity.frame_psnr is None:
        return
    for index, (label, psnr) in enumerate(zip(labels, fidelity.frame_psnr, strict=True)):
        console.heading(f"frame by frame: {label}")
        made = console.table("frame", "PSNR", "SSIM")
        for frame in shown_frames(len(psnr), most=LINES):
            ssim = None if fidelity.frame_ssim is None else fidelity.frame_ssim[index][frame]
            console.row(made, frame, decibel(psnr[frame]), number(ssim))
        console.show(made)
        if len(psnr) > LINES:
            console.say(f"{LINES} of {len(psnr)} frames; the record has all")


def _label(generated: Generated, frame: int) -> str:
    fidelity = generated.fidelity
    if fidelity is None or fidelity.frame_psnr is None or len(fidelity.frame_psnr) > 1:
        return f"frame {frame}"
    return f"frame {frame}: {decibel(fidelity.frame_psnr[0][frame])}"
