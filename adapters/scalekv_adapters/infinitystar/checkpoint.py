"""Reading published InfinityStar checkpoints: a folder of safetensors shards, one shard after the other.

Sizes come from the files. Nothing in one is run, and all that can be wrong with one ends in a `CheckpointError` of one line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.generation import InfinityStar
from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_adapters.infinitystar.tokenizer_checkpoint import VideoTokenizerFormat
from scalekv_adapters.infinitystar.transformer import HEADS
from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import WeightsFormat, fill, find_weights

WINDOW = 512
"""Rows of the published table for no prompt that are read; the official loader leaves out further ones, too."""


@attrs.frozen
class InfinityStarFormat(WeightsFormat):
    """The transformer of InfinityStar; its official names are those of the module."""

    kind: ClassVar[str] = "InfinityStar"
    marker: ClassVar[str] = "norm_hidden_sates.weight"

    def knows(self, names: Collection[str]) -> bool:
        return self.marker in names and "cfg_uncond" in names

    def normal(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        return {name: value[:WINDOW] if name == "cfg_uncond" else value}

    def dtype(self, name: str, wanted: torch.dtype) -> torch.dtype:
        return torch.float32 if name.partition(".")[0] in HEADS else wanted


FORMATS = (InfinityStarFormat(), VideoTokenizerFormat())
"""What is published of InfinityStar."""


def load_infinitystar(
    path: Path,
    *,
    tokenizer: VideoTokenizer | None = None,
    expect: InfinityStarConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_nonfinite: bool = False,
) -> InfinityStar:
    """The InfinityStar of a checkpoint, in evaluation mode.

    Args:
        path: a folder of shards with their index, or a single .safetensors file.
        tokenizer: what turns its codes into clips.
        expect: the sizes that it should have.
        device: where to keep the weights.
        dtype: of all but the heads, which are in float32, as in published runs.
        allow_nonfinite: accept infinities and numbers that are none.

    Raises:
        CheckpointError: a file or shard is missing, cannot be read or holds code; it is no InfinityStar, one of other sizes than
            expected, or one for a tokenizer of other codes.
    """
    weights = find_weights(path, InfinityStarFormat(), known=FORMATS)
    with weights.named_in_errors():
        config = InfinityStarConfig.of_state(weights.shapes)
        _check_expected(config, expect, tokenizer)
    with torch.device("meta"):
        model = InfinityStar(config, tokenizer)
    return fill(model, weights, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)


def _check_expected(
    config: InfinityStarConfig, expect: InfinityStarConfig | None, tokenizer: VideoTokenizer | None
) -> None:
    found, wanted = attrs.asdict(config), attrs.asdict(expect or config)
    if other := [name for name in wanted if wanted[name] != found[name]]:
        mine, asked = (", ".join(f"{name} {sizes[name]}" for name in other) for sizes in (found, wanted))
        raise CheckpointError(f"it has {mine}; you asked for {asked}")
    if tokenizer is not None and tokenizer.config.code_width != config.code_width:
        raise CheckpointError(
            f"it reads codes of {config.code_width} channels; its tokenizer makes {tokenizer.config.code_width}"
        )
