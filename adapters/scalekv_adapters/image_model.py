"""A loaded model of any family: what a person asks for becomes a batch, which the loop of all families generates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from scalekv_adapters.generation import ImageBatch, generate
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.models.requests import Seeds
from scalekv_core.models.sampling import Sampling


class FamilyModel(ImageModel):
    """A model whose family generates batches."""

    @abstractmethod
    def batch(self, prompts: Sequence[str], sampling: Sampling) -> ImageBatch:
        """The images of these prompts, not begun yet; InputError for a prompt or a sampling that the model does not accept."""

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Seeds,
        sampling: Sampling | None = None,
        forced: Sequence[Tensor] | None = None,
        keep_logits: bool = False,
    ) -> Generation:
        prompts = self.check_prompts(prompts)
        seeds = self.check_seeds(prompts, seeds)
        how = sampling or self.sampling
        return generate(
            self.batch(prompts, how),
            seeds=None if how.greedy else seeds,
            forced=forced or (),
            keep_logits=keep_logits,
        )
