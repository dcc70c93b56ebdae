"""``scalekv convert``: the weights of a model, once and for all, into files that need no second copy to be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalekv_core.cli import console

if TYPE_CHECKING:
    from scalekv_core.models.weights import WeightsFormat
    from scalekv_core.models.weights.conversion import Conversion

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE", help="A weights file as published, a folder of shards, or a folder with several of both."
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the .safetensors files go.", show_default=False)]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="float32, bfloat16 or float16, for the transformers; VAEs stay as they are. [dim]default: as in the source[/dim]",
        show_default=False,
    ),
]


def convert(source: Source, out: Out, dtype: Dtype = None) -> None:
    """Write published weights as safetensors, once; they then load without a second copy in memory.

    Streams tensor by tensor. The folder that is written can be named with --weights; nothing in the source is run.
    """
    from scalekv_core.cli import writing
    from scalekv_core.models.weights.conversion import check_disk_space, conversions
    from scalekv_core.pipeline import loading

    wanted = None if dtype is None else loading.read_dtype(dtype)
    writing.check_directory(out)
    found, left = conversions(source, known_formats(), dtype=wanted)
    check_disk_space(found, out)
    write(found, out)
    if left:
        console.say(f"left alone, since no installed model is loaded from it: {', '.join(path.name for path in left)}")
    console.heading(f"written to {out}: {', '.join(one.name for one in found)}")


def known_formats() -> list[WeightsFormat]:
    """What the installed models are loaded from, each once."""
    from scalekv_core.cli.installed import model_card, the_registry

    return list(dict.fromkeys(format for name in the_registry().names("model") for format in model_card(name).formats))


def write(found: Sequence[Conversion], out: Path) -> None:
    """Writes all files or none of them, with a line for each."""
    from scalekv_core.cli.writing import written_together
    from scalekv_core.shapes.geometry import format_bytes

    with written_together(out) as stage:
        for one in found:
            with console.progress(one.name, one.nbytes) as advance:
                one.write(stage, advance)
            console.say(
                f"{one.weights.path.name}: {one.weights.format.kind}, {len(one.weights.shapes)} tensors, "
                f"{format_bytes(one.nbytes)}"
            )
