"""How good infinity-tiny is: the captions that it is asked, and how many of its pictures show them, task by task.

The same captions and seeds for everybody: with the full cache, under any policy, before and after more training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from recipes.infinity_tiny.random_captions import random_caption
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.tiny.captions import TASKS, Caption
from scalekv_adapters.infinity.tiny.judge import judge
from scalekv_adapters.infinity.tiny.network import PIXELS, TinyInfinity
from scalekv_core.models.sampling import Sampling

__all__ = ["Question", "draw", "held_by_task", "questions"]

_SEED = 20_000
"""Captions of the measurement follow from it; training counts its seeds from elsewhere."""


@frozen
class Question:
    """A caption to generate, and the seed of its picture."""

    caption: Caption
    seed: int


def questions(per_task: int) -> list[Question]:
    """So many questions of every task, task by task, always the same.

    >>> [str(question.caption) for question in questions(1)][:2]
    ['a triangle', 'a yellow circle']
    """
    source = torch.Generator().manual_seed(_SEED)
    return [Question(random_caption(task, source), seed) for task in TASKS for seed in range(per_task)]


def draw(
    model: TinyInfinity,
    asked: Sequence[Question],
    how: Sampling,
    *,
    aspect: str = "1:1",
    batch: int = 50,
) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1] of N questions; they do not depend on the batch.

    Args:
        model: with a VAE.
        asked: the questions.
        how: bits are sampled.
        aspect: width:height.
        batch: pictures generated at once.
    """
    drawn = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        text = PackedText.pack(model.text.encode([str(question.caption) for question in part]))
        seeds = [question.seed for question in part]
        canvas = Canvas(aspect, PIXELS)
        generation = model.transformer.generate(
            text,
            seeds=seeds,
            canvas=canvas,
            guidance=how.guidance,
            top_k=how.top_k,
            top_p=how.top_p,
            temperature=how.temperature,
        )
        drawn.append(generation.images)
    return torch.cat(drawn)


def held_by_task(asked: Sequence[Question], images: Tensor) -> dict[str, float]:
    """{task: share of its pictures that show their caption, ..., "all": share of all}."""
    right = judge([question.caption for question in asked], images)
    by_task = {
        task: [good for good, question in zip(right, asked, strict=True) if question.caption.task == task]
        for task in TASKS
    }
    return {task: sum(some) / len(some) for task, some in by_task.items() if some} | {"all": sum(right) / len(right)}
