"""The tiny video tokenizer of which everything was recorded from the official code (see tests/data/golden)."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_adapters.infinitystar.tokenizer_config import VideoTokenizerConfig

DATA = Path(__file__).parents[2] / "data"
GOLDEN = DATA / "golden" / "infinitystar"
TINY = VideoTokenizerConfig(widths=(8, 16, 16, 32), blocks=1)
SMALL = VideoTokenizerConfig(widths=(4, 4, 8, 8), blocks=1, latent_channels=2)
"""Smaller still, with random weights."""


@functools.cache
def recorded(file: str) -> dict[str, Tensor]:
    """The tensors of a golden file, read-only."""
    return load_file(GOLDEN / f"{file}.safetensors")


@functools.cache
def told(entry: str) -> dict:
    """What the header of the recorded generations says."""
    with safe_open(GOLDEN / "io.safetensors", "pt") as opened:
        return json.loads(opened.metadata()[entry])


@functools.cache
def golden_state() -> dict[str, Tensor]:
    """The recorded weights of the tokenizer, in float32."""
    return {name[4:]: x.float() for name, x in recorded("weights").items() if name.startswith("vae.")}


@functools.cache
def golden_tokenizer() -> VideoTokenizer:
    """The tokenizer with the recorded weights; not to be changed."""
    tokenizer = VideoTokenizer(TINY)
    tokenizer.load_state_dict(golden_state(), strict=True)
    return tokenizer.eval().requires_grad_(False)


def width_of(case: dict, step: int) -> int:
    """The bits of a position in a step of a recorded case."""
    scale = case["steps"][step][0]
    pyramid = [s for s, (t, *_) in enumerate(case["schedule"]) if t == 1]
    return 16 if scale % len(pyramid) < case["semantic_scales"] else 64
