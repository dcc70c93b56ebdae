"""Reading the published video tokenizer, and making one with random weights. Nothing in a file is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_adapters.infinitystar.tokenizer_config import VideoTokenizerConfig
from scalekv_core.models.weights import WeightsFormat, fill, find_weights

MASKS = ("quantizer.", "quantize.")
"""What the published file holds of its quantiser, under two names: powers of two, which nothing here needs."""


@attrs.frozen
class VideoTokenizerFormat(WeightsFormat):
    """The video tokenizer of InfinityStar; its official names are those of the module."""

    kind: ClassVar[str] = "InfinityStar tokenizer"
    marker: ClassVar[str] = "scale_learnable_parameters"
    stays_as_it_is: ClassVar[bool] = True

    def normal(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        return {} if name.startswith(MASKS) else {name: value}


def load_video_tokenizer(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_nonfinite: bool = False,
    known: Sequence[WeightsFormat] = (),
) -> VideoTokenizer:
    """The tokenizer of a checkpoint, in evaluation mode.

    Args:
        path: the published .pth, or a .safetensors file with the same names.
        device, dtype: where and how to keep the weights; published runs use float32.
        allow_nonfinite: accept infinities and numbers that are none.
        known: other formats, so that an error can say what was found instead.

    Raises:
        CheckpointError: the file cannot be read, holds code, or is no video tokenizer of these names and shapes.
    """
    weights = find_weights(path, VideoTokenizerFormat(), known=known)
    with weights.named_in_errors():
        config = VideoTokenizerConfig.of_state(weights.shapes)
    with torch.device("meta"):
        model = VideoTokenizer(config)
    return fill(model, weights, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)


def random_video_tokenizer(
    config: VideoTokenizerConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VideoTokenizer:
    """A tokenizer of these sizes with seeded random weights, in evaluation mode. Clips are noise; memory and time are real."""
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        model = VideoTokenizer(config).to(dtype)
    model.to_empty(device=device).eval().requires_grad_(False)
    for name, tensor in model.state_dict().items():
        if name.endswith("gamma") or name == VideoTokenizerFormat.marker:
            tensor.fill_(1)
        else:
            tensor.normal_(std=0.02, generator=generator)
    return model
