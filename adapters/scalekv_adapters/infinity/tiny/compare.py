"""The judge's table: what every policy does to 500 captions, at several budgets, task by task.

``python -m scalekv_adapters.infinity.tiny.compare`` draws the same captions with the unmodified model and under every
policy, and prints how many pictures show their caption and how near they are to the unmodified model's. Rows already in the
JSON file are not drawn again, so it can be interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from attrs import asdict, frozen
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from scalekv_adapters.infinity.tiny.captions import TASKS
from scalekv_adapters.infinity.tiny.measure import Question, held_by_task, questions
from scalekv_core import ImageModel, compress, load_model, shared_registry
from scalekv_core.fidelity import psnr

MODEL = "infinity-tiny"
UNMODIFIED = "unmodified"
POLICIES = ("uniform", "h2o", "snapkv", "scalekv", "streaming", "pyramidkv", "ams-kv")
BUDGETS = ("50%", "20%", "10%", "5%")


@frozen(kw_only=True)
class Row:
    """One policy at one budget.

    Attributes:
        policy, budget: as given.
        captions: how many were drawn.
        held: {task, and "all": share of its pictures that show their caption}.
        psnr: dB of all pictures together against the unmodified model's; None for that one.
        agreement: share of bits that are the same; None for the unmodified model.
        bytes: resident bytes of a batch, and those of the unmodified model; None for that one.
    """

    policy: str
    budget: str
    captions: int
    held: dict[str, float]
    psnr: float | None = None
    agreement: float | None = None
    bytes: tuple[int, int] | None = None


@frozen(eq=False, kw_only=True)
class Drawn:
    """Pictures (N, 3, H, W) in [0, 1], and their bits of all scales (N, bits)."""

    images: Tensor
    bits: Tensor


def draw(model: ImageModel, asked: Sequence[Question], what: str, *, batch: int = 50) -> Drawn:
    """What the model draws, batch by batch, under whatever session it is in."""
    images, bits = [], []
    for start in track(range(0, len(asked), batch), what, transient=True):
        part = asked[start : start + batch]
        made = model.generate([str(q.caption) for q in part], seeds=[q.seed for q in part])
        images.append(made.images)
        bits.append(torch.cat([tokens.flatten(1) for tokens in made.tokens], dim=1))
    return Drawn(images=torch.cat(images), bits=torch.cat(bits))


def measure(model: ImageModel, policy: str, budget: str, full: Drawn, asked: Sequence[Question]) -> Row:
    """The row of one policy at one budget."""
    with compress(model, policy, budget) as session:
        drawn = draw(model, asked, f"{policy} {budget}")
    memory = session.report().as_dict()
    return Row(
        policy=policy,
        budget=budget,
        captions=len(asked),
        held=held_by_task(asked, drawn.images),
        psnr=float(psnr(drawn.images[None], full.images[None])),
        agreement=float((drawn.bits == full.bits).float().mean()),
        bytes=(memory["resident_bytes"], memory["unmodified_bytes"]),
    )


def main(
    out: Annotated[Path, typer.Option(help="JSON file with the rows; those in it are not drawn again.")] = Path(
        "captions.json"
    ),
    per_task: Annotated[int, typer.Option(min=1, help="Captions of each task.")] = 100,
    aspect: Annotated[str, typer.Option(help="Aspect ratio, width:height.")] = "1:1",
    policy: Annotated[list[str] | None, typer.Option(help="Policies; repeat it.")] = None,
    budget: Annotated[list[str] | None, typer.Option(help="Budgets; repeat it.")] = None,
) -> None:
    """Prints the judge's table for infinity-tiny and writes it as JSON."""
    for name in policy or POLICIES:
        shared_registry().policy(name)
    known: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    model, asked = load_model(MODEL), questions(per_task)
    model.draw_on(aspect=aspect)
    full = draw(model, asked, UNMODIFIED)
    row = Row(policy=UNMODIFIED, budget="", captions=len(asked), held=held_by_task(asked, full.images))
    known[f"{UNMODIFIED} {aspect} {len(asked)}"] = asdict(row)
    for name in policy or POLICIES:
        for size in budget or BUDGETS:
            key = f"{name} {size} {aspect} {len(asked)}"
            if key not in known:
                known[key] = asdict(measure(model, name, size, full, asked))
            out.write_text(json.dumps(known, indent=1) + "\n")
    show(known)


def show(known: dict[str, Any]) -> None:
    """Prints the rows."""
    table = Table(title="share of pictures that show their caption")
    for column in ("policy", "budget", *TASKS, "all", "PSNR", "same bits", "of unmodified"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in known.values():
        held = [f"{row['held'][task]:.0%}" if task in row["held"] else "-" for task in TASKS]
        rest = ("-", "-", "-")
        if row["bytes"]:
            rest = (f"{row['psnr']:.1f} dB", f"{row['agreement']:.1%}", f"{row['bytes'][0] / row['bytes'][1]:.1%}")
        table.add_row(row["policy"], row["budget"], *held, f"{row['held']['all']:.1%}", *rest)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
