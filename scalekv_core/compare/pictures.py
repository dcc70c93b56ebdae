"""Images as PNG, contact sheets of clips, and sheets of labelled rows that compare policies."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import torch
from attrs import field, frozen
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scalekv_core.models.frames import is_clip

INK, QUIET, TRACK, BAR, PAPER = "#1a1a1a", "#6b6b6b", "#e3e3e3", "#2f6db5", "#ffffff"
GAP, SEAM = 8, 2
"""Pixels between cells, and between a picture and its label."""
CONTACT = 9
"""Frames on the contact sheet of a clip."""
NOT_A_NUMBER = (255, 0, 255)
"""Colour of NaN pixels, which no image has by chance."""


@frozen(kw_only=True)
class Row:
    """One row of a sheet.

    Attributes:
        images: one per column.
        beside: one more per column, right of the images; empty if this row has none.
        title: its name.
        lines: what else is said about it.
        share: length of the bar below the text, in [0, 1]; None means no bar.
    """

    images: Sequence[Image.Image]
    beside: Sequence[Image.Image] = field(factory=tuple)
    title: str
    lines: Sequence[str] = field(factory=tuple)
    share: float | None = None


def as_images(images: Tensor) -> list[Image.Image]:
    """One picture for each of the (B, 3, H, W) in [0, 1]; what is outside is clipped, what is not a number is magenta.

    The picture of a clip, of (B, 3, F, H, W), is a contact sheet of up to nine of its frames.

    >>> as_images(torch.zeros(2, 3, 4, 6))[0].size
    (6, 4)
    >>> as_images(torch.full((1, 3, 1, 1), torch.nan))[0].getpixel((0, 0))
    (255, 0, 255)
    >>> as_images(torch.zeros(1, 3, 20, 4, 6))[0].size
    (18, 12)
    """
    if is_clip(images):
        return [contact_sheet(clip) for clip in images]
    values = images.detach().float().cpu().permute(0, 2, 3, 1)
    pixels = (values.nan_to_num(0.0, 1.0, 0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    pixels[values.isnan().any(dim=3)] = torch.tensor(NOT_A_NUMBER, dtype=torch.uint8)
    return [Image.fromarray(image.numpy()) for image in pixels]


def shown_frames(frames: int, *, most: int = CONTACT) -> list[int]:
    """Which frames of a clip a sheet shows: the first, the last, and evenly between.

    >>> shown_frames(3), shown_frames(81, most=5), shown_frames(1)
    ([0, 1, 2], [0, 20, 40, 60, 80], [0])
    """
    shown = min(frames, most)
    return [round(number * (frames - 1) / max(1, shown - 1)) for number in range(shown)]


def contact_sheet(clip: Tensor) -> Image.Image:
    """Up to nine frames of a clip (3, F, H, W) in [0, 1] in rows, pixel by pixel as they are."""
    frames = shown_frames(clip.shape[1])
    return grid(as_images(clip[:, frames].transpose(0, 1)), columns=ceil(sqrt(len(frames))))


def difference(images: Tensor, reference: Tensor, *, amplify: float) -> Tensor:
    """The absolute difference of images or clips, ``amplify`` times; not a number where one of them is not."""
    return ((images.float() - reference.float()).abs() * amplify).clamp(0, 1)


def grid(images: Sequence[Image.Image], *, columns: int) -> Image.Image:
    """The images side by side, pixel by pixel as they are, ``columns`` in a row.

    >>> grid(as_images(torch.zeros(3, 3, 4, 6)), columns=2).size
    (12, 8)
    """
    width, height = images[0].size
    columns = min(columns, len(images))
    canvas = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), PAPER)
    for index, image in enumerate(images):
        canvas.paste(image, (index % columns * width, index // columns * height))
    return canvas


def sheet(
    rows: Sequence[Row],
    *,
    columns: Sequence[str] = (),
    heading: str = "",
    note: str = "",
    cell: int = 144,
    least_width: int = 0,
) -> Image.Image:
    """Labelled rows of pictures, with a heading, and a label above each column.

    Args:
        rows: all with the same number of images.
        columns: labels of the columns; shortened where they do not fit.
        heading: one line above everything.
        note: a smaller line below it.
        cell: width of a picture on the sheet. Small pictures are enlarged by whole factors, so that pixels stay sharp.
        least_width: of the whole sheet.
    """
    layout = _Layout.of(rows, columns, heading, note, cell, least_width)
    canvas = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(canvas)
    if heading:
        _write(draw, (GAP, GAP), layout.fit(heading, layout.size[0] - 2 * GAP, 16), 16, INK)
    if note:
        _write(draw, (GAP, GAP + 24), layout.fit(note, layout.size[0] - 2 * GAP, 13), 13, QUIET)
    for index, label in enumerate(columns):
        _write(draw, (layout.column(index), layout.top - 20), layout.fit(label, layout.width, 13), 13, QUIET)
    for number, row in enumerate(rows):
        _draw_row(canvas, draw, layout, row, layout.top + number * (layout.row_height + GAP))
    return canvas


def _draw_row(canvas: Image.Image, draw: ImageDraw.ImageDraw, layout: _Layout, row: Row, top: int) -> None:
    _write(draw, (GAP, top), layout.fit(row.title, layout.label, 16), 16, INK)
    y = top + 24
    for line in row.lines:
        _write(draw, (GAP, y), layout.fit(line, layout.label, 13), 13, QUIET)
        y += 18
    if row.share is not None:
        filled = max(1, round(layout.label * min(1.0, row.share)))
        draw.rectangle((GAP, y + 4, GAP + layout.label - 1, y + 13), fill=TRACK)
        draw.rectangle((GAP, y + 4, GAP + filled - 1, y + 13), fill=BAR)
    for index, image in enumerate(row.images):
        canvas.paste(_sized(image, layout.cell), (layout.column(index), top))
    for index, image in enumerate(row.beside):
        canvas.paste(_sized(image, layout.cell), (layout.column(index) + layout.cell[0] + SEAM, top))


@frozen(kw_only=True)
class _Layout:
    """The layout of a sheet, in pixels."""

    size: tuple[int, int]
    label: int  # width of the text on the left
    cell: tuple[int, int]  # a picture as it is pasted
    width: int  # of a column: a picture, and what stands beside it
    row_height: int
    top: int  # of the first row

    @classmethod
    def of(
        cls, rows: Sequence[Row], columns: Sequence[str], heading: str, note: str, cell: int, least_width: int
    ) -> _Layout:
        width, height = rows[0].images[0].size
        factor = max(1, round(cell / width)) if width < cell else cell / width
        pasted = (round(width * factor), round(height * factor))
        texts = [(row.title, 16) for row in rows] + [(line, 13) for row in rows for line in row.lines]
        label = min(300, max(110, *(round(_width(text, size)) + 4 for text, size in texts)))
        row_height = max(pasted[1], *(24 + 18 * len(row.lines) + 18 * (row.share is not None) for row in rows))
        top = GAP + (28 if heading else 0) + (20 if note else 0) + (22 if columns else 0)
        width = 2 * pasted[0] + SEAM if any(row.beside for row in rows) else pasted[0]
        full = max(least_width, 3 * GAP + label + len(rows[0].images) * (width + GAP))
        bottom = top + len(rows) * (row_height + GAP)
        return cls(size=(full, bottom), label=label, cell=pasted, width=width, row_height=row_height, top=top)

    def column(self, index: int) -> int:
        """Left edge of a column of pictures."""
        return 3 * GAP + self.label + index * (self.width + GAP)

    def fit(self, text: str, width: int, size: int) -> str:
        """The text, shortened to a width."""
        if _width(text, size) <= width:
            return text
        while text and _width(text + "...", size) > width:
            text = text[:-1]
        return text + "..."


def _sized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    enlarge = size[0] >= image.size[0]
    return image.resize(size, Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, ink: str) -> None:
    draw.text(place, _writable(text, size), ink, font=_font(size))


def _width(text: str, size: int) -> float:
    return _font(size).getlength(_writable(text, size))


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # pillow before 10.1 has one size
        return ImageFont.load_default()


def _writable(text: str, size: int) -> str:
    """The text with what the font cannot hold replaced: pillow's old bitmap font refuses all but Latin-1."""
    if isinstance(_font(size), ImageFont.FreeTypeFont):
        return text
    return text.encode("latin-1", "replace").decode("latin-1")
