"""What a VAR accepts: classes of its own, and a VQVAE whose tokens are its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.vqvae import VQVAE, VQVAEConfig
from scalekv_core.errors import InputError


def check_labels(labels: Tensor | Sequence[int], classes: int) -> Tensor:
    """Labels (B,) int64; InputError if one is no class of a model of so many, or none is given."""
    checked = torch.as_tensor(labels)
    if checked.dim() != 1 or not len(checked) or checked.is_floating_point() or checked.dtype == torch.bool:
        got = f"{checked.dtype} {tuple(checked.shape)}"
        raise InputError(f"generate needs labels (B,), one or more integers; got {got}")
    if checked.min() < 0 or checked.max() >= classes:
        raise InputError(f"generate needs labels from 0 to {classes - 1}, got {checked.tolist()}")
    return checked.to(torch.int64)


def shared_sizes(config: VARConfig | VQVAEConfig) -> tuple[int, int, tuple[int, ...]]:
    """What a transformer and its VQVAE must agree on."""
    return config.codes, config.code_width, config.patch_sides


def check_pair(config: VARConfig, vqvae: VQVAE) -> None:
    """Raises InputError if the tokens of the VQVAE are not those of the transformer."""
    wanted, got = shared_sizes(config), shared_sizes(vqvae.config)
    if got != wanted:
        raise InputError(f"VAR needs a VQVAE of (codes, code width, patch sides) {wanted}, got one of {got}")
