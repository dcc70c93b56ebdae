"""InfinityStar without its weights: the same loop, for planning its memory and for measuring its time."""

from __future__ import annotations

from collections.abc import Generator

import attrs
import torch
from torch import Tensor

from scalekv_adapters.bare import BareFamily
from scalekv_adapters.generation import steps
from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.generation import Clips, InfinityStar
from scalekv_adapters.infinitystar.guidance import Preset
from scalekv_adapters.infinitystar.pyramids import DETAIL_BITS, SEMANTIC_BITS, Pyramids
from scalekv_adapters.infinitystar.story import Story
from scalekv_adapters.infinitystar.text import Text
from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_adapters.infinitystar.tokenizer_config import VideoTokenizerConfig
from scalekv_adapters.sampling import image_generators
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound


class BareInfinityStar(BareFamily):
    """An InfinityStar and its tokenizer with the weights that they are made with, and prompts that say nothing."""

    def __init__(self, star: InfinityStar, preset: Preset, sampling: Sampling) -> None:
        attentions = [block.attn for block in star.blocks]
        super().__init__(
            star,
            star.tokenizer,
            schedule=star.pyramids.schedule(star.text_tokens),
            blocks=star.blocks,
            projections=[(a, p.weight) for a in attentions for p in (a.q_proj, a.k_proj, a.v_proj)],
        )
        self.star, self.preset, self.sampling = star, preset, sampling

    @classmethod
    def of(
        cls,
        config: InfinityStarConfig,
        tokenizer: VideoTokenizerConfig,
        pyramids: Pyramids,
        *,
        text_tokens: int,
        preset: Preset,
        sampling: Sampling,
        layers: int | None,
        device: str | torch.device,
    ) -> BareInfinityStar:
        """Of these sizes, in float32.

        Args:
            config, tokenizer, pyramids, text_tokens: the sizes.
            preset, sampling: how bits are chosen.
            layers: in place of the config's; None leaves it.
            device: where it runs.
        """
        sizes = config if layers is None else attrs.evolve(config, depth=layers, chunks=1)
        with torch.device(device):
            decoder = VideoTokenizer(tokenizer).eval().requires_grad_(False)
            star = InfinityStar(sizes, decoder, pyramids=pyramids, text_tokens=text_tokens)
        return cls(star.eval().requires_grad_(False), preset, sampling)

    def batch(self, images: int, *, guidance: bool) -> Clips:
        star, pyramids = self.star, self.star.pyramids
        zeros = star.cfg_uncond.new_zeros
        text = Text(zeros(images, star.text_tokens, star.config.text_width))
        sampling = self.sampling if guidance else attrs.evolve(self.sampling, guidance=0.0)
        story = None
        if pyramids.conditions:
            latents = (images, star.config.code_width)
            former = pyramids.conditions[0][0] + 1
            story = Story(zeros(*latents, former, *pyramids.whole), zeros(*latents, 1, *pyramids.whole))
        return Clips(star, text, pyramids, self.preset.choosing(pyramids, sampling), story)

    def generate(self, images: int, cache: AttentionCache, *, guidance: bool = True) -> Generator[None, None, None]:
        """As every bare model; a scale is what a cache counts: the text, each condition, all passes of a map."""
        batch = self.batch(images, guidance=guidance)
        yield from batch.before(cache)
        passes = batch.pyramids.passes
        for step, each in zip(steps(batch, cache, image_generators(range(images), images)), passes, strict=True):
            del step
            if each.last:
                yield

    def decode(self, images: int) -> Tensor:
        pyramids = self.star.pyramids
        former = pyramids.conditions[0][0] + 1 if pyramids.conditions else 0
        features = self.star.tokenizer.empty_sum(images, former + pyramids.latent_frames, *pyramids.whole)
        return self.star.tokenizer.pictures(features)


def size_bound(
    config: InfinityStarConfig, tokenizer: VideoTokenizerConfig, pyramids: Pyramids, *, text_encoder: int
) -> SizeBound:
    """What an InfinityStar of these sizes takes at most, in float32.

    A block has at most 4 C^2 weights of attention and 3 C h of its feed-forward network. While it runs, a token takes some C of
    input, projections and rotation and some h of the hidden layer. Beside it there are the sums of codes.

    Args:
        config, tokenizer, pyramids: the sizes.
        text_encoder: numbers in its weights.
    """
    c, h = config.width, config.hidden
    block = 4 * c**2 + 3 * c * h + 4 * c
    outside = (
        c * (config.text_width + config.code_width + 4 + 2 * (DETAIL_BITS + SEMANTIC_BITS))
        + config.text_window * config.text_width
    )
    former = pyramids.conditions[0][0] + 1 if pyramids.conditions else 0
    latents, (rows, columns) = former + pyramids.latent_frames, pyramids.whole
    largest = max(pyramids.schedule(config.text_window).tokens)
    sums = 8 * latents * rows * columns * config.code_width
    return SizeBound(
        weights=4 * (config.depth * block + outside + 1024 + tokenizer.most_weights + text_encoder),
        row=4 * (largest * (32 * c + 4 * h + 16 * 2 * DETAIL_BITS) + sums),
        image=4 * (tokenizer.most_decoding(latents, rows, columns) + sums),
    )
