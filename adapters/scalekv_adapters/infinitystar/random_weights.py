"""An InfinityStar without its weights: random ones of the right sizes. Clips are noise; memory and time are real."""

from __future__ import annotations

import torch

from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.generation import InfinityStar
from scalekv_adapters.infinitystar.tokenizer_checkpoint import random_video_tokenizer
from scalekv_adapters.infinitystar.tokenizer_config import VideoTokenizerConfig


def random_infinitystar(
    config: InfinityStarConfig,
    tokenizer: VideoTokenizerConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> InfinityStar:
    """An InfinityStar and its tokenizer of these sizes with seeded random weights, in evaluation mode.

    It is built without memory and filled tensor by tensor, in its final dtype; heads and tokenizer are in float32.
    """
    generator = torch.Generator(device).manual_seed(seed)
    decoder = random_video_tokenizer(tokenizer, seed=seed, device=device)
    with torch.device("meta"):
        star = InfinityStar(config, decoder)
        star.published_in(dtype)
    star.to_empty(device=device).eval().requires_grad_(False)
    for name, tensor in star.state_dict().items():
        if "norm" in name:
            tensor.fill_(1)
        else:
            tensor.normal_(std=0.02, generator=generator)
    return star
