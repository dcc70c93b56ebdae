"""The result of one setting on one image: a picture, its figures and costs, or why there is none."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from scalekv_core.compare.pictures import as_images

WHOLE = -1
"""The scale of a figure that is of the whole image."""
NOT_A_NUMBER = "not a number"
"""The note of a figure that was computed, in contrast to one whose metric raised, begins so."""


@frozen(kw_only=True)
class Figure:
    """One figure of one image.

    Attributes:
        metric: its name.
        scale: which scale it is of, or :data:`WHOLE`.
        value: infinity and not-a-number are kept as such.
        note: why it is not a number, where that is known.
    """

    metric: str
    scale: int
    value: float
    note: str | None = None

    @property
    def stored(self) -> tuple[float | None, str | None]:
        """(value, note): SQLite has no not-a-number, so that null stands for it and the note says why."""
        return (None, self.note or NOT_A_NUMBER) if math.isnan(self.value) else (self.value, None)


@frozen(eq=False, kw_only=True)
class Cell:
    """The result of one setting on one image.

    Attributes:
        prompt, seed: which image.
        picture: the image as PNG; None if it failed.
        figures: of every metric, whole and by scale.
        seconds, unmodified_seconds: to generate it, its share of the batch.
        resident_bytes, peak_bytes: of the batch's cache.
        selection_share: of the time in the cache, what choosing tokens took.
        failed: why there are no figures; None if there are.
    """

    prompt: str
    seed: int
    picture: bytes | None = None
    figures: Sequence[Figure] = ()
    seconds: float | None = None
    unmodified_seconds: float | None = None
    resident_bytes: int | None = None
    peak_bytes: int | None = None
    selection_share: float | None = None
    failed: str | None = None

    @property
    def measured(self) -> tuple[float | int | None, ...]:
        """The cost columns in the order of the table ``cell``."""
        return self.seconds, self.unmodified_seconds, self.resident_bytes, self.peak_bytes, self.selection_share


def reason_of(error: Exception) -> str:
    """One line that says why a cell has no figures.

    >>> reason_of(RuntimeError("out of memory"))
    'RuntimeError: out of memory'
    """
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'no message'}"


def as_png(image: Any) -> bytes:
    """(3, H, W) in [0, 1] as a PNG; of a clip (3, F, H, W) its contact sheet."""
    buffer = io.BytesIO()
    as_images(image[None])[0].save(buffer, format="PNG")
    return buffer.getvalue()
