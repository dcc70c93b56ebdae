"""The judge's table: what every policy does to 500 digits, at several budgets.

``python -m recipes.var_tiny.compare`` generates the same digits with the unmodified model and under every policy, and
prints how many the judge reads as the class that was asked for, how near the images are, and, with the unmodified model's
tokens forced, how far the distributions are. Rows already in the JSON file are not generated again, so it can be interrupted.
A policy may have parts exchanged: ``--policy "scalekv codec=int8"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from recipes.compare_command import Batches, Budgets, Options, Out, Policies, fill, run
from recipes.comparison import Batch, Judge
from recipes.var_tiny.judge import accuracy, load_judge
from scalekv_core import load_model

MODEL = "var-tiny"


def digits(per_class: int, batch: int) -> list[Batch]:
    """Every class at seed 0, at seed 1, up to ``per_class`` of each."""
    return Batch.cut([(str(label), seed) for seed in range(per_class) for label in range(10)], batch)


def judge_of(batches: Sequence[Batch]) -> Judge:
    """Tells the share of digits that are read as the class that was asked for."""
    judge, labels = load_judge(), torch.tensor([int(prompt) for batch in batches for prompt in batch.prompts])

    def judged(images: Tensor) -> dict[str, float]:
        return {"recognised": accuracy(judge, images, labels)}

    return judged


def main(
    out: Out = Path("judged.json"),
    per_class: Annotated[int, typer.Option(min=1, help="Digits of each class.")] = 50,
    batch: Batches = 50,
    policy: Policies = None,
    budget: Budgets = None,
    option: Options = None,
) -> None:
    """Prints the judge's table for var-tiny and writes it as JSON."""
    batches = digits(per_class, batch)
    fill(out, load_model(MODEL), batches, judge_of(batches), policies=policy, budgets=budget, options=option)


if __name__ == "__main__":
    run(main)
