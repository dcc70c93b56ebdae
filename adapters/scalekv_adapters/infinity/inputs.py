"""What an Infinity accepts: texts, inputs of teacher forcing and a VAE that fit its sizes."""

from __future__ import annotations

from torch import Tensor

from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.vae import BSQVAE
from scalekv_core.errors import InputError


def check_text(text: PackedText, config: InfinityConfig) -> None:
    """Raises InputError unless the prompts are as wide, and no longer, than the transformer was built for."""
    if text.features.shape[1:] != (config.text_channels,):
        raise InputError(
            f"this Infinity reads text features of {config.text_channels} channels; got {tuple(text.features.shape)}: "
            "another text encoder made them"
        )
    if max(text.lens) > config.text_maxlen:
        raise InputError(
            f"this Infinity reads prompts of at most {config.text_maxlen} text tokens; got one of {max(text.lens)}"
        )


def check_negative(negative: PackedText, text: PackedText, config: InfinityConfig, *, guided: bool) -> None:
    """Raises InputError unless there is one negative prompt for each prompt, that fits, and guidance that uses them."""
    if not guided:
        raise InputError(
            "Infinity uses a negative prompt by guidance, which is off; set guidance above 1, or leave it out"
        )
    if len(negative) != len(text):
        raise InputError(f"Infinity needs one negative prompt for each of {len(text)} prompts; got {len(negative)}")
    check_text(negative, config)


def check_inputs(x: Tensor, batch: int, canvas: Canvas, config: InfinityConfig) -> None:
    """Raises InputError unless x is what teacher forcing reads on this canvas."""
    wanted = (batch, canvas.schedule.total - 1, config.token_bits)
    if tuple(x.shape) != wanted:
        raise InputError(f"Infinity needs inputs of {wanted} for {batch} images of {canvas}; got {tuple(x.shape)}")


def check_pair(config: InfinityConfig, vae: BSQVAE) -> None:
    """Raises InputError if the bits of the VAE are not those of the transformer."""
    if vae.config.bits != config.bits:
        raise InputError(f"Infinity needs a VAE of {config.bits} bits, got one of {vae.config.bits}")
