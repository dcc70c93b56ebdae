"""Pictures as the page shows them: data URLs, so that no file is written and no path is ever sent."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from scalekv_core.compare.pictures import as_images, difference

AMPLIFY = 4
"""How much the difference map is amplified."""
SHARP = 256
"""Pixels of a side up to which an image is enlarged by whole factors, so that its pixels stay sharp."""
SHOWN = 512
"""Pixels of a side that small images are enlarged to, about."""
THUMBNAIL = 64
"""The same of the images in the strip of scales."""
RECORD = "scalekv"
"""Name of the text chunk in which a PNG carries its record."""


def picture(image: Tensor) -> Image.Image:
    """The picture of one (3, H, W) in [0, 1]."""
    return as_images(image[None])[0]


def difference_map(compressed: Tensor, unmodified: Tensor) -> Image.Image:
    """The picture of how far two (3, H, W) are apart, amplified; black where they are identical."""
    return picture(difference(compressed[None], unmodified[None], amplify=AMPLIFY)[0])


def shown(image: Image.Image, side: int = SHOWN) -> Image.Image:
    """The picture at the size at which it is shown: a small one enlarged, no pixel blurred.

    >>> shown(Image.new("RGB", (32, 64))).size
    (256, 512)
    """
    longest = max(image.size)
    factor = max(1, side // longest) if longest <= SHARP else 1
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def thumbnail(image: Image.Image) -> Image.Image:
    """A small copy.

    >>> thumbnail(Image.new("RGB", (32, 16))).size, thumbnail(Image.new("RGB", (1024, 512))).size
    ((64, 32), (64, 32))
    """
    if max(image.size) < THUMBNAIL:
        return shown(image, THUMBNAIL)
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def cells(shares: NDArray[np.float64], *, kept: tuple[int, int, int], evicted: tuple[int, int, int]) -> Image.Image:
    """A picture of (h, w) shares in [0, 1], one pixel per token, from one colour to another."""
    blend = shares[..., None]
    pixels = np.asarray(evicted) * (1 - blend) + np.asarray(kept) * blend
    return Image.fromarray(pixels.round().astype(np.uint8))


def png(image: Image.Image, record: Mapping[str, Any] | None = None) -> bytes:
    """The picture as a PNG file; its record is a text chunk of it."""
    chunks = PngInfo()
    if record is not None:
        chunks.add_itxt(RECORD, as_json(record))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def record_of(file: bytes) -> dict[str, Any]:
    """The record that a PNG carries.

    >>> record_of(png(Image.new("RGB", (1, 1)), {"seed": 7}))
    {'seed': 7}
    """
    with Image.open(io.BytesIO(file)) as image:
        found: dict[str, Any] = json.loads(image.info[RECORD])
    return found


def as_json(record: Mapping[str, Any]) -> str:
    """Text that a person can read, too."""
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def preview_url(image: Image.Image) -> str:
    """A data URL of a picture that is soon replaced: small, and for a large one in JPEG."""
    if max(image.size) <= SHARP:
        return data_url(png(image), "image/png")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return data_url(file.getvalue(), "image/jpeg")


def data_url(content: bytes, kind: str) -> str:
    """The content as a URL that needs no server.

    >>> data_url(b"x", "text/plain")
    'data:text/plain;base64,eA=='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
