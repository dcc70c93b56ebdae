"""A VAR that is asked with class labels: what :func:`scalekv_core.load_model` gives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from scalekv_adapters.image_model import FamilyModel
from scalekv_adapters.var.generation import VAR, VARImages
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError, shortened
from scalekv_core.models.parts import DECODER, TRANSFORMER, Parts
from scalekv_core.models.sampling import Sampling

MOST_DIGITS = 9
"""A label has no more; Python refuses to read thousands of them."""


def check_sampling(name: str, sampling: Sampling) -> None:
    """Raises InputError where guidance is told by scale, or at another place than the logits."""
    if isinstance(sampling.guidance, tuple):
        raise InputError(f"model {name!r} needs one guidance, which grows from scale to scale by itself")
    sampling.check_guided_on_logits(f"model {name!r}")


class VARImageModel(FamilyModel):
    """A VAR whose prompts are class labels, written as numbers."""

    def __init__(self, name: str, var: VAR, *, sampling: Sampling, profile: AttentionProfile | None = None) -> None:
        self.name = name
        self.module = self.var = var
        self.schedule = var.config.schedule
        self.sampling = sampling
        self.profile = profile

    @property
    def parts(self) -> Parts:
        vqvae = self.var.vqvae
        return {TRANSFORMER: (self.var, vqvae.quantize), DECODER: (vqvae.post_quant_conv, vqvae.decoder)}

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return tuple(self.var.blocks)

    def batch(self, prompts: Sequence[str], sampling: Sampling, negative_prompt: str) -> VARImages:
        check_sampling(self.name, sampling)
        if negative_prompt:
            raise InputError(f"model {self.name!r} generates class labels, which have no negative prompt; leave it out")
        labels = [self.label(prompt) for prompt in prompts]
        self.turn(TRANSFORMER)
        return self.var.batch(labels, sampling)

    def label(self, prompt: str) -> int:
        """The class that a prompt names; InputError if it names none."""
        classes, digits = self.var.config.num_classes, prompt.strip()
        if not (digits.isdecimal() and len(digits) <= MOST_DIGITS and int(digits) < classes):
            raise InputError(
                f"model {self.name!r} generates class labels, the numbers 0 to {classes - 1}; got {shortened(prompt)}"
            )
        return int(digits)
