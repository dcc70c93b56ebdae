"""The command of both small models: their judge's table of policies, generated once and kept in a JSON file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from attrs import asdict, fields_dict
from rich.console import Console
from rich.table import Table

from recipes.comparison import UNMODIFIED, Batch, Comparison, Judge, Row, check
from scalekv_core import ImageModel
from scalekv_core.errors import InputError, ScaleKVError

POLICIES = ("uniform", "h2o", "snapkv", "scalekv", "streaming", "pyramidkv", "ams-kv", "fold")
"""All that drop tokens of any model; ``scalekv-reference`` holds the capacities of two published ones."""

BUDGETS = ("50%", "20%", "10%", "5%")

_FIELDS = fields_dict(Row).keys()

Out = Annotated[Path, typer.Option(help="JSON file of the rows; rows in it are not generated again.")]
Batches = Annotated[int, typer.Option("--batch", min=1, help="Pictures generated at once.")]
Policies = Annotated[
    list[str] | None, typer.Option("--policy", help="NAME, or 'NAME codec=NAME merger=NAME'; repeat it.")
]
Budgets = Annotated[list[str] | None, typer.Option("--budget", help="How much may be held; repeat it.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="NAME=VALUE of the policies; repeat it.")]


def fill(
    path: Path,
    model: ImageModel,
    batches: Sequence[Batch],
    judge: Judge,
    *,
    policies: Sequence[str] | None = None,
    budgets: Sequence[str] | None = None,
    options: Sequence[str] | None = None,
) -> None:
    """Generates the rows that the file does not have, writes it after each, and prints the whole table.

    Args:
        path: the file, which need not be there.
        model, batches, judge: as in `Comparison`.
        policies, budgets: of the rows; None is POLICIES and BUDGETS.
        options: NAME=VALUE, set in every policy.

    Raises:
        ScaleKVError: a row cannot be generated, or the file is another one.
    """
    chosen = dict(read_option(text) for text in options or ())
    policies, budgets = [" ".join(text.split()) for text in policies or POLICIES], budgets or BUDGETS
    check_writable(path.parent)
    check(model, policies, budgets, chosen)
    known, images = read(path), sum(len(batch.seeds) for batch in batches)
    drawn_so = [*(f"{name}={value}" for name, value in chosen.items()), model.aspect or "1:1", str(images)]
    wanted = {
        (policy, budget): " ".join([model.name, policy, budget, *drawn_so])
        for policy, budget in product(policies, budgets)
    }
    if missing := {key: row for row, key in wanted.items() if key not in known}:
        comparison = Comparison.of(model, batches, judge)
        known.setdefault(" ".join([model.name, UNMODIFIED, *drawn_so[-2:]]), asdict(comparison.unmodified()))
        for key, row in missing.items():
            known[key] = asdict(comparison.row(*row, chosen))
            write(path, known)
    show(known)


def read_option(text: str) -> tuple[str, str]:
    """(name, value) of ``NAME=VALUE``; InputError if it is of another form."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise InputError(f"an option is given as NAME=VALUE, such as window=9; got {text!r}")
    return name.strip(), value.strip()


def check_writable(folder: Path) -> None:
    """Raises InputError, before anything is generated, if no file can be written to this folder."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to the folder {folder}; name another file with --out")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """{key: row} of a file; nothing where there is no file.

    Raises:
        InputError: it is of another kind.
    """
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        known = None
    if not isinstance(known, dict) or not all(
        isinstance(row, dict) and row.keys() == _FIELDS for row in known.values()
    ):
        raise InputError(f"{path} does not hold the rows of a comparison; name another file with --out")
    return known


def write(path: Path, known: Mapping[str, Any]) -> None:
    """Writes the file as a whole, so that whatever happens no row is lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def show(known: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the rows."""
    looked_at = list(dict.fromkeys(name for row in known.values() for name in row["judged"]))
    table = Table(title="share that the judge finds right, and how near to the unmodified model")
    for column in ("policy", "budget", "images", *looked_at, "PSNR", "the same", "KL, forced", "of unmodified"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in known.values():
        name = " ".join([row["policy"], *(f"{k}={v}" for k, v in row["options"].items())])
        held = [f"{row['judged'][what]:.1%}" if what in row["judged"] else "" for what in looked_at]
        table.add_row(name, row["budget"], str(row["images"]), *held, *_nearness(row))
    Console().print(table)


def _nearness(row: Mapping[str, Any]) -> list[str]:
    if row["psnr"] is None:
        return [""] * 4
    kl = "" if row["kl"] is None else f"{row['kl']:.3f}"
    return [
        f"{row['psnr']:.1f} dB",
        f"{row['agreement']:.1%}",
        kl,
        f"{row['resident_bytes'] / row['unmodified_bytes']:.1%}",
    ]


def run(main: Callable[..., None]) -> None:
    """Runs a command; a mistake of its user is one line and exit code 2."""
    try:
        typer.run(main)
    except ScaleKVError as error:
        print(f"scalekv: {error}", file=sys.stderr)
        raise SystemExit(2) from None
