"""The tiny HART whose every number was recorded from the official code (see tests/data/golden)."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attrs import frozen
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.context import Context
from scalekv_adapters.hart.generation import HART
from scalekv_adapters.vqvae import VQVAE, VQVAEConfig
from tests.adapters.hart.official_standin import StandInHART

DATA = Path(__file__).parents[2] / "data"
GOLDEN = DATA / "golden" / "hart"
SIDES = (1, 2, 3, 4, 5, 6)
SIZES = {
    "depth": 3, "width": 96, "heads": 3, "hidden": 256, "context_tokens": 12, "context_width": 40, "patch_sides": SIDES,
    "codes": 608, "code_width": 8, "diffusion_width": 64, "diffusion_depth": 2,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "table": {"adaln": "table", "attn_l2_norm": True, "level": "table", "context_norm": False},
    "ada": {"adaln": "linear", "context_norm": False},
}


@functools.cache
def tensors(file: str) -> dict[str, Tensor]:
    """The tensors of a golden file, read-only."""
    return load_file(GOLDEN / f"{file}.safetensors")


def part(file: str, prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, in float32 where they are not integers."""
    found = {name: x for name, x in tensors(file).items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): x.float() if x.is_floating_point() else x for name, x in found.items()}


@functools.cache
def header(file: str, entry: str) -> dict:
    """What the header of a golden file says."""
    with safe_open(GOLDEN / f"{file}.safetensors", "pt") as opened:
        return json.loads(opened.metadata()[entry])


@functools.cache
def tiny_tokenizer() -> VQVAE:
    """The golden tokenizer."""
    config = VQVAEConfig(codes=608, code_width=8, base_channels=32, multipliers=(1, 2), patch_sides=SIDES)
    tokenizer = VQVAE(config)
    state = {**part("weights", "vae."), "quantize.ema_vocab_hit_SV": torch.zeros(len(SIDES), 608)}
    tokenizer.load_state_dict(state, strict=True)
    return tokenizer.eval().requires_grad_(False)


@functools.cache
def tiny_hart(variant: str) -> HART:
    """The golden transformer of a variant; not to be changed."""
    model = HART(HARTConfig(**SIZES, **VARIANTS[variant]), tiny_tokenizer())
    state = part("weights", f"{variant}.")
    state |= {name: x for name, x in model.state_dict().items() if name.endswith("zero_k_bias")}
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False)


def context_of(variant: str) -> Context:
    """The two recorded prompts."""
    lengths = torch.tensor(header("io", "cases")[variant]["text_lengths"])
    return Context(tensors("io")[f"{variant}.context"], torch.arange(12) < lengths[:, None])


@frozen(eq=False)
class Golden:
    """One variant: the model, its prompts and what was recorded of it."""

    model: HART
    context: Context
    teacher_forced: dict[str, Tensor]
    generated: dict[str, Tensor]


@pytest.fixture(scope="session", params=list(VARIANTS))
def golden(request) -> Golden:
    name = request.param
    return Golden(tiny_hart(name), context_of(name), part("io", f"{name}.tf."), part("io", f"{name}.ar."))


@pytest.fixture(scope="session")
def make_hart() -> Callable[[str], HART]:
    """Makes a golden transformer that may be changed."""
    return lambda variant="plain": copy.deepcopy(tiny_hart(variant))


@pytest.fixture(scope="session")
def make_official(make_hart) -> Callable[[str], StandInHART]:
    """Makes an object with the structure of the official one."""
    return lambda variant="plain": StandInHART(make_hart(variant)).eval()


@pytest.fixture(scope="session")
def manifest() -> Callable[[str], dict]:
    """Reads what was recorded of a full-size model: names, shapes and parameter count."""
    return lambda name: json.loads((DATA / "manifests" / f"{name}.json").read_text())
