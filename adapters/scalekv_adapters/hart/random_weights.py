"""A HART without its weights: random ones of the right sizes, and random text features. Images are noise; memory and time are
real."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.context import Context
from scalekv_adapters.hart.generation import HART
from scalekv_adapters.vqvae import VQVAE, VQVAEConfig
from scalekv_core.errors import InputError


@frozen
class RandomText:
    """Stands for a text encoder where weights are random: one random feature per word, always the same for a prompt.

    Attributes:
        tokens, channels: of the text that the model reads.
    """

    tokens: int
    channels: int

    def encode(self, prompts: Sequence[str]) -> Context:
        """The text of the prompts; InputError if one has too many words."""
        return Context.of([self._features(prompt) for prompt in prompts], self.tokens)

    def _features(self, prompt: str) -> Tensor:
        words = len(prompt.split())
        if words > self.tokens:
            raise InputError(f"a prompt may have {self.tokens} text tokens, here words; got {words}")
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "little") >> 1
        return torch.randn(words, self.channels, generator=torch.Generator().manual_seed(seed))


def random_hart(
    config: HARTConfig,
    tokenizer: VQVAEConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HART:
    """A HART and its tokenizer of these sizes with seeded random weights, in evaluation mode.

    It is built without memory and filled tensor by tensor, in its final dtype; the tokenizer is in float32.
    """
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        decoder = VQVAE(tokenizer)
        hart = HART(config, decoder).to(dtype)
    for module in (hart, decoder):
        module.to_empty(device=device).eval().requires_grad_(False)
        for name, tensor in module.state_dict().items():
            _fill(name, tensor, generator)
    return hart


@torch.no_grad()
def _fill(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Fills a tensor of a new model in place, so that activations stay finite at any depth."""
    if name.endswith(("zero_k_bias", "ema_vocab_hit_SV")):
        tensor.zero_()
    elif name.endswith(
        ("norm.weight", "norm1.weight", "norm2.weight", "norm_out.weight", "ln.weight", "ln_wo_grad.weight")
    ):
        tensor.fill_(1)
    else:
        tensor.normal_(std=0.02, generator=generator)
