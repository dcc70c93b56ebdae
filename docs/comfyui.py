"""Writes the picture of the ComfyUI nodes, docs/examples/comfyui-scalekv/nodes.png: ``python docs/comfyui.py``.

It is no screenshot: titles, inputs and menus are read from the nodes, the values from the workflow, and the images and the
report are what the workflow gives.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).parent / "examples" / "comfyui-scalekv"
PICTURE = FOLDER / "nodes.png"
CANVAS, NODE, TITLE, FIELD, INK, QUIET = "#202020", "#353535", "#2a2a2a", "#222222", "#dddddd", "#9a9a9a"
COLOURS = {"SCALEKV_MODEL": "#b39ddb", "SCALEKV_POLICY": "#ffb74d", "IMAGE": "#64b5f6", "SCALEKV_REPORT": "#81c784"}
LINE, PAD, SCALE = 22, 10, 2
PLACES = {"1": (20, 20, 250), "2": (20, 200, 250), "3": (320, 20, 320), "4": (700, 240, 290), "5": (700, 20, 290)}
"""{node of the workflow: left, top, width}."""


def load() -> ModuleType:
    """The nodes, imported as ComfyUI does."""
    spec = importlib.util.spec_from_file_location("comfyui_scalekv", FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["comfyui_scalekv"] = package
    spec.loader.exec_module(package)
    return package


def results(package: ModuleType, workflow: dict[str, Any]) -> dict[str, Any]:
    """{node: what it gives}."""
    done: dict[str, Any] = {}
    for number, step in workflow.items():
        if step["class_type"] in package.NODE_CLASS_MAPPINGS:
            node = package.NODE_CLASS_MAPPINGS[step["class_type"]]()
            inputs = {name: done[v[0]][v[1]] if isinstance(v, list) else v for name, v in step["inputs"].items()}
            given = getattr(node, node.FUNCTION)(**inputs)
            done[number] = given["result"] if isinstance(given, dict) else given
    return done


class Sheet:
    """A canvas on which nodes are put, at twice the size so that text stays sharp."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), CANVAS)
        self._on = ImageDraw.Draw(self.image)
        self.sockets: dict[tuple[str, str], tuple[int, int]] = {}

    def text(self, x: int, y: int, text: str, colour: str = INK, size: int = 13, right: bool = False) -> None:
        font = ImageFont.load_default(size * SCALE)
        if right:
            x -= int(self._on.textlength(text, font=font) / SCALE)
        self._on.text((x * SCALE, y * SCALE), text, fill=colour, font=font)

    def box(self, x: int, y: int, width: int, height: int, colour: str, radius: int = 6) -> None:
        self._on.rounded_rectangle(
            [x * SCALE, y * SCALE, (x + width) * SCALE, (y + height) * SCALE], radius * SCALE, fill=colour
        )

    def socket(self, key: tuple[str, str], x: int, y: int, kind: str) -> None:
        self.sockets[key] = x, y
        self._on.ellipse(
            [(x - 5) * SCALE, (y - 5) * SCALE, (x + 5) * SCALE, (y + 5) * SCALE], fill=COLOURS.get(kind, QUIET)
        )

    def wire(self, start: tuple[str, str], end: tuple[str, str], kind: str) -> None:
        (x, y), (u, v) = self.sockets[start], self.sockets[end]
        bend = max(40, abs(u - x) // 2)
        points = []
        for step in range(41):
            t = step / 40
            weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
            points.append(
                (
                    SCALE * sum(w * p for w, p in zip(weights, (x, x + bend, u - bend, u), strict=True)),
                    SCALE * sum(w * p for w, p in zip(weights, (y, y, v, v), strict=True)),
                )
            )
        self._on.line(points, fill=COLOURS.get(kind, QUIET), width=3 * SCALE, joint="curve")

    def paste(self, image: Image.Image, x: int, y: int, side: int) -> None:
        self.image.paste(image.resize((side * SCALE, side * SCALE), Image.Resampling.LANCZOS), (x * SCALE, y * SCALE))


def put(
    sheet: Sheet,
    number: str,
    title: str,
    inputs: dict[str, str],
    outputs: dict[str, str],
    values: dict[str, Any],
    below: int = 0,
) -> int:
    """Puts a node on the sheet; returns where its fields end."""
    left, top, width = PLACES[number]
    rows = max(len(inputs), len(outputs))
    height = 30 + LINE * rows + (LINE + 4) * len(values) + below + PAD
    sheet.box(left, top, width, height, NODE)
    sheet.box(left, top, width, 26, TITLE)
    sheet.text(left + PAD, top + 5, title)
    y = top + 34
    for row, (name, kind) in enumerate(inputs.items()):
        sheet.socket((number, name), left, y + LINE * row + 7, kind)
        sheet.text(left + PAD, y + LINE * row, name, QUIET)
    for row, (name, kind) in enumerate(outputs.items()):
        sheet.socket((number, name), left + width, y + LINE * row + 7, kind)
        sheet.text(left + width - PAD, y + LINE * row, name, QUIET, right=True)
    y += LINE * rows
    for name, value in values.items():
        sheet.box(left + PAD, y, width - 2 * PAD, LINE, FIELD, 4)
        sheet.text(left + 2 * PAD, y + 3, name, QUIET, 12)
        shown = str(value)
        sheet.text(left + width - 2 * PAD, y + 3, shown if len(shown) < 30 else f"{shown[:27]}...", INK, 12, right=True)
        y += LINE + 4
    return y


def write() -> None:
    """Runs the workflow and writes the picture."""
    package = load()
    workflow = json.loads((FOLDER / "workflows" / "captions.json").read_text(encoding="utf-8"))
    done = results(package, workflow)
    images = [Image.fromarray((image.numpy() * 255).round().astype("uint8")) for image in done["3"][0]]
    sheet = Sheet(1010, 420)
    for wires in (False, True):  # first to learn where the sockets are, then nodes above wires
        for number, step in workflow.items():
            node = package.NODE_CLASS_MAPPINGS.get(step["class_type"])
            declared = (
                {} if node is None else {n: k for part in node.INPUT_TYPES().values() for n, (k, *_) in part.items()}
            )
            links = {
                name: str(declared.get(name, "IMAGE")) for name, v in step["inputs"].items() if isinstance(v, list)
            }
            values = {name: value for name, value in step["inputs"].items() if not isinstance(value, list)}
            outputs = {} if node is None else dict(zip(node.RETURN_NAMES, node.RETURN_TYPES, strict=True))
            title = package.NODE_DISPLAY_NAME_MAPPINGS.get(step["class_type"], "Preview Image")
            below = {"3": 150, "4": 110, "5": 140}.get(number, 0)
            y = put(sheet, number, title, links, outputs, values, below)
            left, _, width = PLACES[number]
            if number == "3":
                sheet.paste(images[0], left + (width - 140) // 2, y + 4, 140)
            elif number == "4":
                sheet.box(left + PAD, y, width - 2 * PAD, 108, FIELD, 4)
                for row, line in enumerate(done["4"][0].splitlines()):
                    sheet.text(left + 2 * PAD, y + 6 + 19 * row, " ".join(line.split()), INK, 12)
            elif number == "5":
                for column, image in enumerate(images):
                    sheet.paste(image, left + PAD + 137 * column, y, 132)
        for number, step in workflow.items():
            for name, value in step["inputs"].items():
                if isinstance(value, list) and not wires:
                    source = package.NODE_CLASS_MAPPINGS[workflow[value[0]]["class_type"]]
                    sheet.wire((value[0], source.RETURN_NAMES[value[1]]), (number, name), source.RETURN_TYPES[value[1]])
    sheet.image.quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    write()
