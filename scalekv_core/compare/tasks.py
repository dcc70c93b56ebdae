"""A study in tasks: one setting on one batch of images, the unit that is run, claimed and written."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from attrs import frozen

from scalekv_core.compare.question import Question, Setting


@frozen(kw_only=True)
class Task:
    """One setting on one batch of images.

    Attributes:
        setting: how the cache is held.
        batch: number of the batch.
        images: (prompt, seed) of each.
    """

    setting: Setting
    batch: int
    images: tuple[tuple[str, int], ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(prompt for prompt, _ in self.images)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(seed for _, seed in self.images)

    @property
    def where(self) -> tuple[str, int]:
        """The model and the batch; tasks with the same ones share their unmodified images."""
        return self.setting.model, self.batch


def tasks_of(question: Question, settings: Sequence[Setting]) -> Iterator[Task]:
    """Every task, made when it is asked for: batch after batch, and within one all settings in an order that changes from
    batch to batch (by a fixed seed), so that a slow hour slows all settings alike."""
    for model in question.models:
        own = [setting for setting in settings if setting.model == model]
        for number, images in enumerate(question.batches(model)):
            for setting in random.Random(f"{model} {number}").sample(own, len(own)):
                yield Task(setting=setting, batch=number, images=tuple(images))
