"""The judge's table: what every policy does to 500 digits, at several budgets.

``python -m scalekv_adapters.var.tiny.compare`` draws the same digits with the unmodified model and under every policy, and
prints how many the judge reads as the class that was asked for, how near the images are, and, with the unmodified model's
tokens forced, how far the distributions are. Rows already in the JSON file are not drawn again, so it can be interrupted.
A policy may have parts exchanged: ``--policy "scalekv codec=int8"``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from attrs import asdict, frozen
from rich.console import Console
from rich.progress import track
from rich.table import Table

from scalekv_adapters.var.tiny import load_judge
from scalekv_adapters.var.tiny.judge import accuracy
from scalekv_core import Generation, ImageModel, Policy, compress, load_model, shared_registry
from scalekv_core.fidelity import compare, psnr

MODEL = "var-tiny"
POLICIES = ("uniform", "h2o", "snapkv", "scalekv", "streaming", "pyramidkv", "ams-kv")
BUDGETS = ("50%", "20%", "10%", "5%")


@frozen(kw_only=True)
class Row:
    """One policy at one budget.

    Attributes:
        policy, budget: as given; the policy with the parts that were exchanged.
        options: {option: value} that were set.
        digits: how many were drawn.
        recognised: share of them that the judge reads as asked.
        psnr: dB of all images together against the unmodified model's.
        agreement: share of tokens that are the same when both draw on their own.
        kl: nats a token, with the unmodified model's tokens forced.
        resident_bytes: of a batch.
        unmodified_bytes: of a batch.
    """

    policy: str
    budget: str
    options: dict[str, str]
    digits: int
    recognised: float
    psnr: float
    agreement: float
    kl: float
    resident_bytes: int
    unmodified_bytes: int


def digits(per_class: int, batch: int) -> Iterator[tuple[list[str], list[int]]]:
    """(prompts, seeds) of batches: ``per_class`` of every class, seeds 0 to per_class - 1 for each."""
    wanted = [(str(label), seed) for label in range(10) for seed in range(per_class)]
    for start in range(0, len(wanted), batch):
        part = wanted[start : start + batch]
        yield [prompt for prompt, _ in part], [seed for _, seed in part]


def draw(model: ImageModel, batches: Sequence[tuple[list[str], list[int]]], what: str) -> list[Generation]:
    """What the unmodified model draws, with logits."""
    return [model.generate(p, seeds=s, keep_logits=True) for p, s in track(batches, what, transient=True)]


def measure(
    model: ImageModel,
    policy: str,
    budget: str,
    options: dict[str, str],
    full: Sequence[Generation],
    batches: Sequence[tuple[list[str], list[int]]],
) -> Row:
    """The row of one policy at one budget; the figures of tokens and divergences are means over equal batches."""
    drawn, figures = [], []
    with compress(model, in_words(policy, options), budget) as session:
        for (prompts, seeds), reference in track(
            list(zip(batches, full, strict=True)), f"{policy} {budget}", transient=True
        ):
            free = model.generate(prompts, seeds=seeds)
            forced = model.generate(prompts, seeds=seeds, forced=reference.tokens, keep_logits=True)
            figures.append(compare(free, reference, forced))
            drawn.append(free.images)
    images, whole = torch.cat(drawn), torch.cat([one.images for one in full])
    memory = session.report().as_dict()
    return Row(
        policy=policy,
        budget=budget,
        options=options,
        digits=len(images),
        recognised=judged(images, batches),
        psnr=float(psnr(images[None], whole[None])),
        agreement=sum(one.over_scales(one.agreement) for one in figures) / len(figures),
        kl=sum(one.over_scales(cast(Sequence[float], one.kl)) for one in figures) / len(figures),
        resident_bytes=memory["resident_bytes"],
        unmodified_bytes=memory["unmodified_bytes"],
    )


def in_words(policy: str, options: dict[str, str]) -> Policy:
    """The policy that a text like ``scalekv codec=int8`` stands for, with options set.

    Raises:
        InputError, UnknownName: there is no such policy, part or option.
    """
    name, *parts = policy.split()
    exchanged = dict(part.partition("=")[::2] for part in parts)
    return shared_registry().policy(name, options=options, **exchanged)


def judged(images: torch.Tensor, batches: Sequence[tuple[list[str], list[int]]]) -> float:
    """Share of the images that the judge reads as the class that was asked for."""
    labels = torch.tensor([int(prompt) for prompts, _ in batches for prompt in prompts])
    return accuracy(load_judge(), images, labels)


def main(
    out: Annotated[Path, typer.Option(help="JSON file with the rows; those in it are not drawn again.")] = Path(
        "judged.json"
    ),
    per_class: Annotated[int, typer.Option(min=1, help="Digits of each class.")] = 50,
    batch: Annotated[int, typer.Option(min=1, help="Digits drawn at once.")] = 50,
    policy: Annotated[list[str] | None, typer.Option(help="Policies, as NAME or 'NAME codec=NAME'; repeat it.")] = None,
    budget: Annotated[list[str] | None, typer.Option(help="Budgets; repeat it.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the policies; repeat it.")] = None,
) -> None:
    """Prints the judge's table for var-tiny and writes it as JSON."""
    options = dict(text.split("=", 1) for text in option or [])
    for name in policy or POLICIES:
        in_words(name, options)
    known: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    model, batches = load_model(MODEL), list(digits(per_class, batch))
    full = draw(model, batches, "unmodified")
    known["unmodified"] = {"digits": 10 * per_class, "recognised": judged(torch.cat([g.images for g in full]), batches)}
    for name in policy or POLICIES:
        for size in budget or BUDGETS:
            key = " ".join([name, size, *(f"{k}={v}" for k, v in options.items()), f"{10 * per_class}"])
            if key not in known:
                known[key] = asdict(measure(model, name, size, options, full, batches))
                out.write_text(json.dumps(known, indent=1) + "\n")
    show(known)


def show(known: dict[str, Any]) -> None:
    """Prints the rows."""
    table = Table(
        title=f"unmodified: {known['unmodified']['recognised']:.1%} of {known['unmodified']['digits']} recognised"
    )
    for column in ("policy", "budget", "recognised", "PSNR", "same tokens", "KL, forced", "of unmodified"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in (row for key, row in known.items() if key != "unmodified"):
        name = " ".join([row["policy"], *(f"{k}={v}" for k, v in row["options"].items())])
        table.add_row(
            name,
            row["budget"],
            f"{row['recognised']:.1%}",
            f"{row['psnr']:.1f} dB",
            f"{row['agreement']:.1%}",
            f"{row['kl']:.3f}",
            f"{row['resident_bytes'] / row['unmodified_bytes']:.1%}",
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
