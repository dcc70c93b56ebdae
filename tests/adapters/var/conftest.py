"""The tiny VAR and VQVAE recorded from the official code (see tests/data/golden)."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.generation import VAR
from scalekv_adapters.vqvae import VQVAE, VQVAEConfig

DATA = Path(__file__).parents[2] / "data"
GOLDEN = DATA / "golden" / "var"
SIDES = (1, 2, 3, 4, 5, 6)
VARIANTS = ("saln0_l2n0", "saln0_l2n1", "saln1_l2n0", "saln1_l2n1")


def _without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """Reads a golden file by its name without ending."""
    return lambda name: load_file(GOLDEN / f"{name}.safetensors")


@pytest.fixture(scope="session")
def manifest() -> Callable[[str], dict]:
    """Reads what was recorded of a full-size model: its config, names, shapes and parameter count."""
    return lambda name: json.loads((DATA / "manifests" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def make_vqvae(golden) -> Callable[..., VQVAE]:
    """Builds the golden VQVAE for any patch sides."""

    def make(patch_sides: tuple[int, ...] = SIDES) -> VQVAE:
        sizes = {"codes": 64, "code_width": 8, "base_channels": 32, "multipliers": (2, 1), "blocks": 1}
        vqvae = VQVAE(VQVAEConfig(**sizes, patch_sides=patch_sides))
        weights = _without_prefix(golden("vae"), "sd.")
        weights["quantize.ema_vocab_hit_SV"] = torch.zeros(len(patch_sides), 64)
        vqvae.load_state_dict(weights, strict=True)
        return vqvae.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def var_state(golden) -> Callable[[str], dict[str, Tensor]]:
    """The state dict, float16 as stored, of one of the four variants."""

    def state(variant: str) -> dict[str, Tensor]:
        with safe_open(GOLDEN / f"var_{variant}.safetensors", framework="pt") as file:
            groups = json.loads(file.metadata()["config"])["weight_groups"]
        weights = golden("weights")
        return {name: value for group in groups for name, value in _without_prefix(weights, f"{group}.").items()}

    return state


@pytest.fixture(scope="session")
def var_config() -> Callable[[str], VARConfig]:
    """The sizes of one of the four variants."""

    def config(variant: str) -> VARConfig:
        sizes = {"depth": 3, "width": 96, "heads": 3, "num_classes": 10, "codes": 64, "code_width": 8}
        flags = {"shared_adaln": "saln1" in variant, "attn_l2_norm": "l2n1" in variant}
        return VARConfig(**sizes, **flags, patch_sides=SIDES)

    return config


@pytest.fixture(scope="session")
def make_var(make_vqvae, var_state, var_config) -> Callable[[str], VAR]:
    """Builds one of the four variants, strictly loaded, with its VQVAE."""

    @functools.cache
    def loaded(variant: str) -> VAR:
        model = VAR(var_config(variant), make_vqvae())
        model.load_state_dict(var_state(variant), strict=True)
        return model.eval().requires_grad_(False)

    return lambda variant: copy.deepcopy(loaded(variant))


@pytest.fixture(scope="session")
def make_official(make_var) -> Callable[[str], nn.Module]:
    """Builds one of the four variants with the structure of the official object."""
    spec = importlib.util.spec_from_file_location("official_standin", Path(__file__).with_name("official_standin.py"))
    standin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standin)
    return lambda variant: standin.StandInVAR(make_var(variant)).eval().requires_grad_(False)


@pytest.fixture(params=VARIANTS)
def variant(request) -> str:
    """Each of the four variants: shared AdaLN or not, attention l2 norm or not."""
    return request.param


@pytest.fixture
def var(make_var, variant) -> VAR:
    """One of the four variants."""
    return make_var(variant)


@pytest.fixture
def plain_var(make_var) -> VAR:
    """The variant built like most published models."""
    return make_var("saln0_l2n1")
