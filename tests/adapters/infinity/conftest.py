"""Two tiny Infinity models recorded from the official code (see tests/data/golden), and two smaller ones with random
weights.
"""

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

from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig

DATA = Path(__file__).parents[2] / "data"
GOLDEN = DATA / "golden" / "infinity"
KINDS = ("like2b", "like8b")
SIZES = {
    "like2b": {"depth": 4, "width": 128, "heads": 2, "bits": 16, "block_chunks": 2},
    "like8b": {"depth": 4, "width": 64, "heads": 4, "bits": 14, "block_chunks": 4, "patch": 2},
    "small": {"depth": 4, "width": 32, "heads": 2, "bits": 6, "block_chunks": 2, "mlp_ratio": 8.0},
    "small patched": {"depth": 4, "width": 16, "heads": 2, "bits": 4, "block_chunks": 4, "patch": 2, "mlp_ratio": 16.0},
}
SMALL = ("small", "small patched")
ASPECTS = {1.0: "1:1", 1.25: "4:5", 0.8: "5:4"}
"""{height / width, as the recordings have it: the aspect ratio}."""


def randomised(module: nn.Module) -> nn.Module:
    """The module with seeded random weights, none of them zero."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if not name.endswith("scale_mul_1H11"):
            weight.data.normal_(std=weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.1, generator=generator)
    return module


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """Reads a golden file by its name without ending."""
    return lambda name: load_file(GOLDEN / f"{name}.safetensors")


@pytest.fixture(scope="session")
def golden_cases() -> Callable[[str], dict[str, dict]]:
    """The settings of each case of a golden file: {case: {guidance, text, ...}}."""

    def cases(kind: str) -> dict[str, dict]:
        with safe_open(GOLDEN / f"{kind}_io.safetensors", framework="pt") as file:
            return json.loads(file.metadata()["cases"])

    return cases


@pytest.fixture(scope="session")
def manifest() -> Callable[[str], dict]:
    """Reads what was recorded of a full-size model: its config, names, shapes and parameter count."""
    return lambda name: json.loads((DATA / "manifests" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def infinity_config() -> Callable[[str], InfinityConfig]:
    """The sizes of one of the recorded models."""
    return lambda kind: InfinityConfig(**SIZES[kind], text_channels=256, text_maxlen=16)


@pytest.fixture(scope="session")
def make_vae(golden) -> Callable[[str], BSQVAE]:
    """The VAE of one of the recorded models."""

    @functools.cache
    def loaded(kind: str) -> BSQVAE:
        if kind in SMALL:
            config = BSQVAEConfig(bits=SIZES[kind]["bits"], base_channels=32, multipliers=(1,), blocks=1)
            return randomised(BSQVAE(config)).eval().requires_grad_(False)
        state = {n.removeprefix("sd."): t for n, t in golden(f"{kind}_vae").items() if n.startswith("sd.")}
        vae = BSQVAE(BSQVAEConfig.of_state(state))
        vae.load_state_dict(state, strict=True)
        return vae.eval().requires_grad_(False)

    return lambda kind: copy.deepcopy(loaded(kind))


@pytest.fixture(scope="session")
def make_infinity(golden, make_vae, infinity_config) -> Callable[[str], Infinity]:
    """Builds one of the recorded models, strictly loaded, with its VAE."""

    @functools.cache
    def loaded(kind: str) -> Infinity:
        model = Infinity(infinity_config(kind), make_vae(kind), canvas=Canvas("1:1", "0.06M"))
        if kind in SMALL:
            return randomised(model).eval().requires_grad_(False)
        model.load_state_dict(golden(f"{kind}_weights"), strict=True)
        return model.eval().requires_grad_(False)

    return lambda kind: copy.deepcopy(loaded(kind))


@pytest.fixture(scope="session")
def make_official(make_infinity) -> Callable[..., nn.Module]:
    """Builds one of the recorded models with the structure of the official object."""
    spec = importlib.util.spec_from_file_location("official_infinity", Path(__file__).with_name("official_standin.py"))
    standin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standin)

    def make(kind: str, *, flash: bool = False) -> nn.Module:
        return standin.StandInInfinity(make_infinity(kind), flash=flash).eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def golden_text(golden) -> Callable[[str, str], PackedText]:
    """The text of a recording, by its name."""

    def text(kind: str, name: str = "text1") -> PackedText:
        tensors = golden(f"{kind}_io")
        return PackedText(tensors[f"{name}.kv"], tensors[f"{name}.lens"].tolist())

    return text


@pytest.fixture(scope="session")
def golden_canvas(golden_cases) -> Callable[[str, str], Canvas]:
    """The canvas of a recorded case."""
    return lambda kind, case: Canvas(ASPECTS[golden_cases(kind)[case]["h_div_w"]], "0.06M")


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    """Each of the recorded models: one token per place of the VAE, and one per 2 x 2 places."""
    return request.param


@pytest.fixture(
    params=["small", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("small patched", *KINDS))]
)
def size(request) -> str:
    """The small model; in thorough tests also the patched one and the recorded ones, whose own tests always run."""
    return request.param


@pytest.fixture
def infinity(make_infinity, kind) -> Infinity:
    """One of the recorded models."""
    return make_infinity(kind)


@pytest.fixture
def any_infinity(make_infinity, size) -> Infinity:
    """A model for tests that must pass with any weights."""
    return make_infinity(size)


@pytest.fixture
def text(golden_text, kind) -> PackedText:
    """A prompt of seven text tokens."""
    return golden_text(kind, "text1")


@pytest.fixture(scope="session")
def plain_text() -> Callable[..., PackedText]:
    """Random features of prompts of these lengths."""

    def text(*lens: int, channels: int = 256, seed: int = 0) -> PackedText:
        generator = torch.Generator().manual_seed(seed)
        return PackedText.pack([torch.randn(length, channels, generator=generator) for length in lens])

    return text
