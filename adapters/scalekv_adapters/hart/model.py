"""A HART that is asked with texts: what :func:`scalekv_core.load_model` gives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from scalekv_adapters.hart.context import TextEncoder
from scalekv_adapters.hart.generation import HART, HARTImages
from scalekv_adapters.image_model import FamilyModel
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.models.parts import DECODER, TEXT_ENCODER, TRANSFORMER, Parts
from scalekv_core.models.sampling import Sampling


def check_sampling(name: str, sampling: Sampling) -> None:
    """Raises InputError where guidance is told by scale, or at another place than the logits."""
    if isinstance(sampling.guidance, tuple):
        raise InputError(f"model {name!r} needs one guidance, which grows from scale to scale by itself")
    sampling.check_guided_on_logits(f"model {name!r}")


class HARTImageModel(FamilyModel):
    """A HART whose prompts are texts.

    Args:
        name: that it was loaded by.
        hart: with its tokenizer.
        encoder: of the text features that it was trained with.
        sampling: its defaults.
        profile: its attention profile.
    """

    def __init__(
        self,
        name: str,
        hart: HART,
        encoder: TextEncoder,
        *,
        sampling: Sampling,
        profile: AttentionProfile | None = None,
    ) -> None:
        self.name = name
        self.module = self.hart = hart
        self.encoder = encoder
        self.schedule = hart.config.schedule
        self.sampling = sampling
        self.profile = profile

    @property
    def parts(self) -> Parts:
        tokenizer = self.hart.tokenizer
        parts: Parts = {TEXT_ENCODER: ()}  # the language model comes and goes by itself
        return {
            **parts,
            TRANSFORMER: (self.hart, tokenizer.quantize),
            DECODER: (tokenizer.post_quant_conv, tokenizer.decoder),
        }

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return tuple(self.hart.blocks)

    def batch(self, prompts: Sequence[str], sampling: Sampling, negative_prompt: str) -> HARTImages:
        check_sampling(self.name, sampling)
        if negative_prompt:
            raise InputError(f"model {self.name!r} is guided away from no text at all; leave out the negative prompt")
        if empty := [i for i, prompt in enumerate(prompts, 1) if not prompt.strip()]:
            raise InputError(
                f"model {self.name!r} generates from a text, and prompt {empty[0]} of {len(prompts)} is empty"
            )
        self.turn(TEXT_ENCODER)
        context = self.encoder.encode(prompts)
        self.turn(TRANSFORMER)
        return self.hart.batch(context, sampling)
