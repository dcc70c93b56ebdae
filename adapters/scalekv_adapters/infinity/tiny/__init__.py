"""infinity-tiny: a small Infinity that draws coloured shapes from captions, shipped with its weights.

It makes everything in this project try-able for text-to-image models, on a CPU and without a download: the seven scales of
the published 0.06M schedules (521 tokens when square), aspect ratios, guidance, bit labels and the state-dict names of the
published models. What it learns from is made by a seeded generator in this folder (`captions`, `drawings`), and whether a
picture shows what its caption says is told without any learned part (`judge`). README.md has the recipe and the figures.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.tiny.network import SIZES, TEXT_DEPTH, VAE_SIZES, TinyInfinity
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_core.errors import InputError

__all__ = ["SAMPLING", "load", "read_weights", "write_all"]

SAMPLING: dict[str, Any] = {"guidance": 4.0, "top_k": 0, "top_p": 0.0, "temperature": 0.6}
"""The settings to draw with, as keyword arguments of `Infinity.generate`."""

_REBUILT = ("zero_k_bias", "mask")
"""Buffers that follow from the sizes."""


def _is_stored(name: str) -> bool:
    return name.rpartition(".")[2] not in _REBUILT


def read_weights(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of a shipped file: "vae" or "infinity"."""
    source = importlib.resources.files(__name__) / f"{name}.safetensors"
    with importlib.resources.as_file(source) as path, safe_open(path, framework="pt") as file:
        config: dict[str, Any] = json.loads(file.metadata()["config"])
        return config, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)


def write_all(to: Path, vae: Mapping[str, Tensor], infinity: Mapping[str, Tensor]) -> Iterator[Path]:
    """Writes both networks' weights as float16 with their sizes as JSON in the header; the files, one by one."""
    sizes = attrs.asdict(SIZES) | {"text_depth": TEXT_DEPTH}
    for name, config, weights in (("vae", attrs.asdict(VAE_SIZES), vae), ("infinity", sizes, infinity)):
        stored = {key: value.half().contiguous() for key, value in weights.items() if _is_stored(key)}
        path = to / f"{name}.safetensors"
        save_file(stored, path, metadata={"config": json.dumps(config)})
        path.chmod(0o644)
        yield path


def _fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies into the module's own dtype: what is stored in float16 is computed in float32."""
    missing, unknown = module.load_state_dict(weights, strict=False)
    if unknown or any(_is_stored(name) for name in missing):
        raise InputError(
            f"the shipped weights do not fit {type(module).__name__}: missing {missing}, unknown {unknown}"
        )
    module.eval().requires_grad_(False)


def load(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> TinyInfinity:
    """The shipped transformer, with its VAE, and its text encoder, in evaluation mode and without gradients.

    Args:
        device: where to put all three.
        dtype: of the transformer; VAE and text encoder stay in float32.

    >>> tiny = load()
    >>> tiny.transformer.config.depth, tiny.transformer.canvas.schedule.total, tiny.transformer.vae.config.stride
    (6, 521, 4)
    """
    config, weights = read_weights("vae")
    vae = BSQVAE(BSQVAEConfig(**config))
    _fill(vae, weights)
    config, weights = read_weights("infinity")
    text_depth = config.pop("text_depth")
    model = TinyInfinity(InfinityConfig(**config), text_depth=text_depth, vae=vae.to(device))
    _fill(model, weights)
    model.to(device).transformer.to(dtype)
    return model
