"""A loaded model of any family: what a person asks for becomes a batch, which the loop of all families generates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from scalekv_adapters.generation import ImageBatch, Step, generate
from scalekv_core.cache.tracing import untraced
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.models.requests import Seeds
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.steps import OnScale, ScaleStep


class FamilyModel(ImageModel):
    """A model whose family generates batches."""

    @abstractmethod
    def batch(self, prompts: Sequence[str], sampling: Sampling, negative_prompt: str) -> ImageBatch:
        """The images of these prompts, not begun yet, after `turn` has told that the transformer is next.

        Raises:
            InputError: a prompt or a sampling that the model does not accept; a negative prompt, not empty, where its family
                knows none.
        """

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Seeds,
        sampling: Sampling | None = None,
        forced: Sequence[Tensor] | None = None,
        keep_logits: bool = False,
        on_scale: OnScale | None = None,
        negative_prompt: str = "",
    ) -> Generation:
        """As every model; and guidance leads away from what ``negative_prompt`` says, if it says something."""
        prompts = self.check_prompts(prompts)
        seeds = self.check_seeds(prompts, seeds)
        how = sampling or self.sampling
        batch = untraced(self.batch)(prompts, how, negative_prompt)
        return untraced(generate)(  # the loop is Python; compile the blocks
            batch,
            seeds=None if how.greedy else seeds,
            forced=forced or (),
            keep_logits=keep_logits,
            on_scale=None if on_scale is None else lambda step: on_scale(told(batch, step)),
        )


def told(batch: ImageBatch, step: Step) -> ScaleStep:
    """What a caller of the model is told of a step."""
    return ScaleStep(scale=step.scale, scales=batch.passes, decode=partial(batch.pictures, step.total))
