"""The judge's table: what every policy does to 500 captions, at several budgets, task by task.

``python -m recipes.infinity_tiny.compare`` generates the same captions with the unmodified model and under every
policy, and prints how many pictures show their caption, how near they are to the unmodified model's, and, with its bits
forced, how far the distributions are. Rows already in the JSON file are not generated again, so it can be interrupted.
A policy may have parts exchanged: ``--policy "scalekv codec=int8"``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from recipes.compare_command import Batches, Budgets, Options, Out, Policies, fill, run
from recipes.comparison import Batch
from recipes.infinity_tiny.measure import Question, held_by_task, questions
from scalekv_core import load_model

MODEL = "infinity-tiny"


def captions(per_task: int) -> list[Question]:
    """The first caption of every task, the second of every task, up to ``per_task`` of each."""
    return sorted(questions(per_task), key=lambda question: question.seed)


def main(
    out: Out = Path("captions.json"),
    per_task: Annotated[int, typer.Option(min=1, help="Captions of each task.")] = 100,
    batch: Batches = 50,
    aspect: Annotated[str, typer.Option(help="Aspect ratio, width:height.")] = "1:1",
    policy: Policies = None,
    budget: Budgets = None,
    option: Options = None,
) -> None:
    """Prints the judge's table for infinity-tiny and writes it as JSON."""
    model, asked = load_model(MODEL), captions(per_task)
    model.set_shape(aspect=aspect)
    batches = Batch.cut([(str(question.caption), question.seed) for question in asked], batch)

    def judge(images: Tensor) -> dict[str, float]:
        return held_by_task(asked, images)

    fill(out, model, batches, judge, policies=policy, budgets=budget, options=option)


if __name__ == "__main__":
    run(main)
