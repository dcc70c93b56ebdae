"""Clips as files: GIF and numbered PNG frames by Pillow, MP4 by PyAV (extra ``video``), which is imported when it is needed."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scalekv_core.compare.pictures import as_images, grid
from scalekv_core.errors import InputError, missing_extra, shortened

KINDS = ("gif", "mp4", "png")
"""Kinds of files, by their ending; the first one needs no extra and holds a whole clip."""
QUALITY = 18
"""Constant rate factor of x264: 0 is lossless, 18 looks as if it were."""
LEAST_SIDE = 256
"""Pixels of a side to which small frames that stand side by side are enlarged, about."""


def save_clip(clip: Tensor, path: str | Path, *, fps: float) -> list[Path]:
    """Writes one clip; returns the files.

    Args:
        clip: (3, F, H, W) in [0, 1].
        path: its ending says how: ``.gif`` (at most 256 colours a frame), ``.mp4`` (H.264; needs the extra ``video``), or ``.png``:
            without loss, a file for each frame, NAME-000.png and so on.
        fps: frames a second.

    Raises:
        InputError: it is no such clip, another ending, or no such number of frames a second.
        MissingExtra: MP4 without PyAV.
    """
    if clip.dim() != 4 or len(clip) != 3 or not clip.numel():
        raise InputError(f"save_clip writes one clip (3, F, H, W); got {tuple(clip.shape)}")
    return write_frames(frames_in_rows(clip[None], columns=1), Path(path), fps=fps)


def check_kind(kind: str) -> None:
    """Raises InputError if clips are not written as such a file, and MissingExtra if the package that writes it is missing."""
    if kind not in KINDS:
        raise InputError(f"clips are written as {', '.join(KINDS[:-1])} or {KINDS[-1]}; got {shortened(kind)}")
    if kind == "mp4":
        _pyav()


def write_frames(frames: Iterable[Image.Image], path: Path, *, fps: float) -> list[Path]:
    """Writes frames of one size as a clip; the files, as :func:`save_clip`."""
    kind = path.suffix.removeprefix(".")
    check_kind(kind)
    if not 0 < fps < math.inf:
        raise InputError(f"a clip has a finite rate of more than 0 frames a second; got {fps:g}")
    if kind == "png":
        return [_write_png(frame, path, number) for number, frame in enumerate(frames)]
    if kind == "gif":
        _write_gif(frames, path, fps)
    else:
        _write_mp4(frames, path, fps)
    return [path]


def frames_in_rows(clips: Tensor, *, columns: int) -> Iterator[Image.Image]:
    """The frames of clips (B, 3, F, H, W) that run at once, ``columns`` of them in a row."""
    for frame in clips.unbind(dim=2):
        yield grid(as_images(frame), columns=columns)


def frames_beside(columns: Iterable[Tensor]) -> Iterator[Image.Image]:
    """The frames of several (B, 3, F, H, W) side by side, clips one below the other; small ones enlarged by a whole factor."""
    for frame in torch.cat(list(columns), dim=4).unbind(dim=2):
        image = grid(as_images(frame), columns=1)
        factor = max(1, LEAST_SIDE // frame.shape[2])
        yield image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def _write_png(frame: Image.Image, path: Path, number: int) -> Path:
    file = path.with_name(f"{path.stem}-{number:03}.png")
    frame.save(file)
    return file


def _write_gif(frames: Iterable[Image.Image], path: Path, fps: float) -> None:
    first, *others = (frame.quantize(256) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)


def _write_mp4(frames: Iterable[Image.Image], path: Path, fps: float) -> None:
    with _pyav().open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": str(QUALITY)}
        for number, frame in enumerate(frames):
            pixels = _even(np.asarray(frame))
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            file.mux(stream.encode(_pyav().VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())


def _even(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) with even sides, as colours at half the resolution need: the last row and column twice where they are odd."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _pyav() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise missing_extra("av", "video", "a clip as MP4 (gif and png need no extra)") from error
