"""Pieces of HTML: values in, text out, everything that anybody typed escaped. ``style.css`` says how they look."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scalekv_core.app import pictures
from scalekv_core.app.kept import KeptMap
from scalekv_core.app.memory import Bar, PlannedMemory
from scalekv_core.shapes.geometry import format_bytes

KEPT, EVICTED = (0xE4, 0x57, 0x2E), (0xD4, 0xD8, 0xDF)
"""Colours of kept tokens and of evicted ones, as in the plots of ``scalekv explain``."""
EMPTY_STAGE = '<div class="skv-empty"><p>The two images appear here, scale by scale.</p></div>'


def status(text: str, kind: str = "quiet") -> str:
    """One line that a screen reader reads out: quiet, busy, done or wrong."""
    role = "alert" if kind == "wrong" else "status"
    return f'<p class="skv-status skv-{kind}" role="{role}">{escape(text)}</p>' if text else ""


def note(text: str) -> str:
    """A sentence below a field."""
    return f'<p class="skv-note">{escape(text)}</p>'


def memory_bars(bars: Sequence[Bar]) -> str:
    """A bar for each figure, all on one axis."""
    most = max(bar.nbytes or 0 for bar in bars) or 1
    rows = []
    for bar in bars:
        width = 100 * (bar.nbytes or 0) / most
        missing = " skv-missing" if bar.nbytes is None else ""
        rows.append(
            f'<div class="skv-bar skv-bar-{bar.name}{missing}"><span class="skv-name">{bar.name}</span>'
            f'<span class="skv-track"><span class="skv-fill" style="width:{width:.2f}%"></span></span>'
            f'<span class="skv-figure">{escape(bar.text)}</span><small>{escape(bar.note)}</small></div>'
        )
    return f'<div class="skv-bars">{"".join(rows)}</div>'


def memory_table(plan: PlannedMemory) -> str:
    """The whole model, part by part; what it takes beside the cache."""
    if plan.need is None or plan.unmodified is None:
        return '<p class="skv-note">The rest of this model cannot be planned: its family has no dry run.</p>'
    parts = zip(plan.need.parts.items(), plan.unmodified.parts.values(), strict=True)
    rows = [(name, mine, theirs) for (name, mine), theirs in parts if mine or theirs]
    rows.append(("peak", plan.need.total, plan.unmodified.total))
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{format_bytes(mine)}</td><td>{format_bytes(theirs)}</td></tr>"
        for name, mine, theirs in rows
    )
    assumed = " Which layers hold much is assumed, not measured." if plan.assumed else ""
    return (
        "<details class=skv-details><summary>The whole model, part by part</summary><table><thead><tr><th></th>"
        f"<th>planned</th><th>unmodified</th></tr></thead><tbody>{cells}</tbody></table>"
        f'<p class="skv-note">Peak: while {escape(plan.need.when)}. Cache and scratch are exact.{assumed}</p></details>'
    )


def stage(figures: Sequence[tuple[str, str, Image.Image | None]]) -> str:
    """The images while they are generated: (title, what is happening, picture)."""
    shown = []
    for title, note, image in figures:
        picture = '<div class="skv-blank"></div>' if image is None else _image(image, title)
        shown.append(
            f"<figure>{picture}<figcaption><b>{escape(title)}</b> <span>{escape(note)}</span></figcaption></figure>"
        )
    return f'<div class="skv-stage">{"".join(shown)}</div>'


def strips(rows: Sequence[tuple[str, Sequence[Image.Image]]], titles: Sequence[str]) -> str:
    """Each scale of each image, small."""
    lines = []
    for name, images in rows:
        steps = "".join(
            f"<figure>{_image(image, f'{name}, {title}')}<figcaption>{escape(title)}</figcaption></figure>"
            for image, title in zip(images, titles[-len(images) :], strict=True)
        )
        lines.append(f'<div class="skv-strip"><span>{escape(name)}</span><div>{steps}</div></div>')
    return f'<div class="skv-strips">{"".join(lines)}</div>'


def difference(image: Image.Image, note: str) -> str:
    """The difference map with its figures."""
    return (
        f'<figure class="skv-difference">{_image(image, "difference map")}'
        f"<figcaption><b>difference</b> <span>{escape(note)}</span></figcaption></figure>"
    )


def downloads(files: Sequence[tuple[str, str, str]]) -> str:
    """Links that save a file: (what is written on it, name of the file, data URL)."""
    links = "".join(
        f'<a class="skv-download" download="{escape(name)}" href="{url}">{escape(text)}</a>'
        for text, name, url in files
    )
    return f'<div class="skv-downloads">{links}</div>'


def shares(table: NDArray[np.float64], titles: Sequence[str], layer: int) -> str:
    """A cell for every layer and scale, the fuller the more of its history the scale attends to."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    rows = []
    for number, line in enumerate(table):
        cells = "".join(
            "<td class=skv-none></td>"
            if np.isnan(share)
            else f'<td style="--share:{share:.3f}" title="layer {number}, {escape(title)}: {100 * share:.1f} %"></td>'
            for share, title in zip(line, titles, strict=True)
        )
        chosen = " class=skv-chosen" if number == layer else ""
        rows.append(f"<tr{chosen}><th>{number}</th>{cells}</tr>")
    return (
        '<p class="skv-legend">Share of its history that each scale attends to, by layer</p><div class="skv-scroll">'
        f'<table class="skv-shares"><thead><tr><th>layer</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def kept_maps(maps: Sequence[KeptMap], layer: int) -> str:
    """The tokens of each map, coloured where the last scale attends to them."""
    figures = []
    for one in maps:
        h, w = one.size
        picture = pictures.cells(one.share, kept=KEPT, evicted=EVICTED)
        figures.append(
            f"<figure>{_image(picture, f'map {h}×{w}')}<figcaption><b>{h}×{w}</b> {escape(one.text)}</figcaption></figure>"
        )
    return (
        f'<div class="skv-kept"><p>Layer {layer}: the tokens of each map that the last scale attends to, mean over heads '
        '<span class="skv-keys"><span class="skv-key skv-key-kept"></span>kept by all</span> '
        '<span class="skv-keys"><span class="skv-key"></span>evicted</span></p>'
        f"<div>{''.join(figures)}</div></div>"
    )


def _image(image: Image.Image, text: str) -> str:
    sharp = " class=skv-sharp" if max(image.size) <= pictures.SHARP else ""
    url = pictures.preview_url(image)
    return f'<img{sharp} alt="{escape(text)}" width="{image.width}" height="{image.height}" src="{url}">'
