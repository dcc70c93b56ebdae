"""The settings of a measurement, which two records must share to be compared."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any, Literal

import torch
from attrs import field, frozen
from attrs.validators import in_

from scalekv_core.errors import InputError
from scalekv_core.memory.batch import Batch
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.shapes.values import whole


def _heads_differ(_: Any, __: Any, value: tuple[float, float]) -> None:
    if len(value) != 2 or not 0 < value[0] <= value[1]:
        raise InputError(f"'head_scales' are the least and the greatest, above 0; got {value}")


@frozen(kw_only=True)
class BenchSettings:
    """The settings of one measurement.

    Attributes:
        geometry: the attention of the model: layers, heads, rows, maps, dtype.
        device: where it runs.
        threads: of torch on the host.
        repeats: images that are timed, of every contender.
        clocked: further images in which the time is told apart by stage, of every contender.
        seed: of the random queries, keys and values.
        head_scales: factors on q.k of normalised vectors, from the first to the last head: the larger, the sharper the
            attention.
        every_layer: run all layers, instead of one of each kind that stands for the others.
        clock: the one on the wall, or the processor's time, where others use the machine too; the latter on a CPU only.
        whole: the batch of a whole transformer; None if attention alone is measured; ``head_scales`` are the
            model's own then.
    """

    geometry: CacheGeometry
    device: torch.device = field(default=torch.device("cpu"), converter=torch.device)
    threads: int = field(factory=torch.get_num_threads, validator=whole(1))
    repeats: int = field(default=5, validator=whole(1))
    clocked: int = field(default=3, validator=whole(0))
    seed: int = field(default=0, validator=whole())
    head_scales: tuple[float, float] = field(default=(4.0, 30.0), validator=_heads_differ)
    every_layer: bool = False
    clock: Literal["wall", "processor"] = field(default="wall", validator=in_(("wall", "processor")))
    whole: Batch | None = None

    def __attrs_post_init__(self) -> None:
        if self.clock == "processor" and self.device.type != "cpu":
            raise InputError(f"--processor-time measures a CPU, not {self.device}; leave it out")

    def as_dict(self) -> dict[str, Any]:
        """What has to be equal in two records that are compared, as plain values. How often it was measured is not."""
        geometry = self.geometry
        return {
            "measured": "attention alone" if self.whole is None else f"whole transformer of {self.whole.model}",
            "layers": geometry.layers,
            "heads": geometry.heads,
            "head_dim": geometry.head_dim,
            "rows": geometry.rows,
            "maps": str(geometry.schedule),
            "dtype": _name(geometry.dtype),
            "unmodified_key_dtype": _name(geometry.unmodified_key_dtype or geometry.dtype),
            "device": device_name(self.device),
            "threads": self.threads,
            "clock": self.clock,
            "seed": self.seed,
            "head_scales": list(self.head_scales) if self.whole is None else None,
            "every_layer": self.every_layer,
        }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """The device with the model of its hardware."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({_processor()})"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def parse_maps(text: str) -> ScaleSchedule:
    """The schedule that a text stands for: sides of squares, or height x width, or time x height x width.

    Raises:
        InputError: it is none.

    >>> parse_maps("1,2,4").tokens, parse_maps("1x1, 3x4").tokens
    ((1, 4, 16), (1, 12))
    """
    maps = []
    for part in text.split(","):
        if not re.fullmatch(r"\s*\d+(\s*x\s*\d+){0,2}\s*", part):
            raise InputError(
                f"maps are written as '1,2,4' (squares) or '1x1,3x4' (height x width); got {part.strip()!r}"
            )
        sizes = [int(size) for size in part.split("x")]
        maps.append(sizes * 2 if len(sizes) == 1 else sizes)
    return ScaleSchedule(maps)
