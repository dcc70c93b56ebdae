"""var-tiny: a small VAR that draws handwritten digits, shipped with its weights.

It makes everything in this project try-able in seconds, on a CPU, without a download: it has the ten scales (680 tokens),
the guidance and the state-dict names of the published models, and was trained on real data. README.md has the recipe.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.tiny.judge import Judge
from scalekv_adapters.var.transformer import VAR
from scalekv_adapters.var.vqvae import VQVAE, VQVAEConfig
from scalekv_core.errors import InputError

__all__ = ["GUIDANCE", "SAMPLING", "TEMPERATURE", "TOP_K", "TOP_P", "load", "load_judge"]

GUIDANCE = 2.0
TOP_K = 0
TOP_P = 0.0
TEMPERATURE = 1.0
SAMPLING: dict[str, Any] = {"guidance": GUIDANCE, "top_k": TOP_K, "top_p": TOP_P, "temperature": TEMPERATURE}
"""The settings to draw with, as keyword arguments of `VAR.generate`."""

_REBUILT = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias")
"""Buffers that follow from the sizes: they are in the published checkpoints, and would be a sixth of this one."""


def _is_stored(name: str) -> bool:
    return name.rpartition(".")[2] not in _REBUILT


def _read(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    source = importlib.resources.files(__name__) / f"{name}.safetensors"
    with importlib.resources.as_file(source) as path, safe_open(path, framework="pt") as file:
        config: dict[str, Any] = json.loads(file.metadata()["config"])
        return config, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)


def _fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies into the module's own dtype: what is stored in float16 is computed in float32."""
    missing, unknown = module.load_state_dict(weights, strict=False)
    if unknown or any(_is_stored(name) for name in missing):
        raise InputError(
            f"the shipped weights do not fit {type(module).__name__}: missing {missing}, unknown {unknown}"
        )
    module.eval().requires_grad_(False)


def write_weights(path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Writes weights as float16 with their configuration as JSON in the header, without what follows from the sizes."""
    stored = {name: value.half().contiguous() for name, value in weights.items() if _is_stored(name)}
    save_file(stored, path, metadata={"config": json.dumps(config)})
    path.chmod(0o644)


def load(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> tuple[VAR, VQVAE]:
    """Returns the shipped VAR, its VQVAE attached, and that VQVAE, in evaluation mode and without gradients.

    Args:
        device: where to put both.
        dtype: of the VAR; the VQVAE stays in float32, as it does for the published models.

    >>> var, vqvae = load()
    >>> var.config.depth, var.config.tokens, vqvae.config.image_side
    (6, 680, 32)
    """
    config, weights = _read("vqvae")
    vqvae = VQVAE(VQVAEConfig(**config))
    _fill(vqvae, weights)
    config, weights = _read("var")
    var = VAR(VARConfig(**config), vqvae.to(device))
    _fill(var, weights)
    return var.to(device=device, dtype=dtype), vqvae


def load_judge(device: str | torch.device = "cpu") -> Judge:
    """Returns the shipped judge, which reads images (N, 1 or 3, 32, 32) in [0, 1], in evaluation mode.

    >>> load_judge()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    config, weights = _read("judge")
    judge = Judge(**config)
    _fill(judge, weights)
    return judge.to(device)
