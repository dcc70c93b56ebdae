"""The contact sheet: the images on which the settings of the frontier are worst, with difference maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scalekv_core.compare.page.commands import image_command
from scalekv_core.compare.page.texts import short
from scalekv_core.compare.results import Results, Row

WORST = 12
"""Images on the sheet."""
SHOWN = 6
"""Settings of the frontier on the sheet."""
THUMBNAIL = 192
"""Maximum side of a thumbnail in pixels."""
SMALL = 96
"""Side in pixels up to which a thumbnail is stored losslessly."""
AMPLIFY = 4
"""Factor by which difference maps are amplified."""


def sheet_of(results: Results, shown: Sequence[Row], metric: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Thumbnails of the images on which the settings shown are worst in the mean, beside the unmodified ones."""
    shown = _spread([row for row in shown if metric in row.figures and any(row.files)])
    if not shown:
        return {"settings": [], "images": []}
    images = [i for i in _worst_first(results, shown, metric) if results.baseline[i]][:WORST]
    return {
        "settings": [row.label for row in shown],
        "images": [_row_of(results, shown, i, metric, question) for i in images],
    }


def _spread(rows: Sequence[Row]) -> list[Row]:
    """A few of the rows from the largest cache to the smallest, both ends among them."""
    ordered = sorted(rows, key=lambda row: -(row.resident_bytes or 0))
    if len(ordered) <= SHOWN:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (SHOWN - 1))] for i in range(SHOWN)]


def _worst_first(results: Results, shown: Sequence[Row], metric: str) -> list[int]:
    """Images from worst to best; images whose figure is NaN for a setting come first, identical ones last."""
    sign = 1 if results.higher_is_better(metric) else -1
    figures = np.stack([row.figures[metric] for row in shown]) * sign
    lost = np.isnan(figures).any(axis=0)
    known = np.where(np.isfinite(figures), figures, np.nan)
    places = np.argsort(np.argsort(np.nan_to_num(known, nan=np.inf), axis=1, kind="stable"), axis=1)
    return np.lexsort((places.mean(axis=0), ~lost)).tolist()


def _row_of(results: Results, shown: Sequence[Row], i: int, metric: str, question: Mapping[str, Any]) -> dict[str, Any]:
    prompt, seed = results.images[i]
    original = _open(results.baseline[i])
    cells = []
    for row in shown:
        picture, figure = _open(row.files[i]), float(row.figures[metric][i])
        same_size = picture is not None and original is not None and picture.size == original.size
        cells.append(
            {
                "image": data_uri(picture),
                "difference": data_uri(_difference(picture, original)) if same_size else None,
                "figure": "identical" if np.isinf(figure) else "no number" if np.isnan(figure) else short(figure),
                "reason": row.reasons.get(i) or row.notes.get(metric, {}).get(i, ""),
                "command": image_command(question, results.model, row, prompt, seed),
            }
        )
    return {"prompt": prompt, "seed": seed, "unmodified": data_uri(original), "cells": cells}


def _open(file: Path | None) -> Image.Image | None:
    """The picture; None if the file is missing or damaged."""
    if file is None:
        return None
    try:
        return Image.open(file).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError):  # Pillow says SyntaxError of a broken PNG
        return None


def _difference(picture: Image.Image | None, original: Image.Image | None) -> Image.Image:
    apart = np.abs(np.asarray(picture, dtype=np.int16) - np.asarray(original, dtype=np.int16)) * AMPLIFY
    return Image.fromarray(apart.clip(0, 255).astype(np.uint8))


def data_uri(picture: Image.Image | None) -> str | None:
    """A thumbnail as a data URL, embedded in the page."""
    if picture is None:
        return None
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    kind, how = ("PNG", {"optimize": True}) if max(picture.size) <= SMALL else ("JPEG", {"quality": 85})
    buffer = io.BytesIO()
    small.save(buffer, format=kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
