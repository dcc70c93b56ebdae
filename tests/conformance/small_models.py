"""Tiny VARs, HARTs, Infinities and InfinityStars with random weights for adapters whose models do not ship with weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.context import Context
from scalekv_adapters.hart.generation import HART
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.generation import Choosing, InfinityStar
from scalekv_adapters.infinitystar.guidance import Guidance
from scalekv_adapters.infinitystar.pyramids import Pyramids
from scalekv_adapters.infinitystar.text import Text
from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_adapters.infinitystar.tokenizer_config import VideoTokenizerConfig
from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.generation import VAR
from scalekv_adapters.vqvae import VQVAE, VQVAEConfig
from scalekv_core.testing import TestModel
from tests.adapters.hart.official_standin import StandInHART
from tests.adapters.infinity.official_standin import StandInInfinity
from tests.adapters.infinitystar.official_standin import StandInInfinityStar
from tests.adapters.var.official_standin import StandInVAR

SIDES = (1, 2, 3, 4)


def small_var() -> VAR:
    """A VAR of two layers and three heads, always the same one.

    Its weights are initialised anew: an untrained VAR begins with attention switched off, and would notice nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqvae = VQVAE(
            VQVAEConfig(codes=16, code_width=4, base_channels=32, multipliers=(1, 1), blocks=1, patch_sides=SIDES)
        )
        config = VARConfig(depth=2, width=24, heads=3, num_classes=10, codes=16, code_width=4, patch_sides=SIDES)
        var = VAR(config, vqvae).eval().requires_grad_(False)
        for parameter in var.parameters():
            parameter.normal_(std=0.1)
        return var


def small_official_var() -> nn.Module:
    """The same with the structure of the official object."""
    return StandInVAR(small_var()).eval().requires_grad_(False)


def draw_ours(model: VAR, rows: int, seed: int, forced: Sequence[Tensor] = ()) -> list[Tensor]:
    """Images, tokens and logits of one batch."""
    drawn = model.generate([3] * rows, seeds=range(seed, seed + rows), guidance=2.0, forced=forced, keep_logits=True)
    return [drawn.images, *drawn.tokens, *(drawn.logits or ())]


def force_ours(model: VAR, rows: int, seed: int, scales: int) -> list[Tensor]:
    """The same with other tokens at the first scales."""
    tokens = draw_ours(small_var(), rows, seed)[1:]
    return draw_ours(model, rows, seed, [x.roll(1, dims=1) for x in tokens[:scales]])


def draw_official(model: nn.Module, rows: int, seed: int) -> list[Tensor]:
    """Images of one batch by the official method."""
    return [model.autoregressive_infer_cfg(B=rows, label_B=torch.tensor([3] * rows), g_seed=seed, cfg=2.0, top_k=1)]


CANVAS = Canvas("2:1", "0.06M")
TEXT_CHANNELS = 8


def small_infinity() -> Infinity:
    """An Infinity of two layers and three heads, always the same one; its weights are initialised anew, as above."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = BSQVAE(BSQVAEConfig(bits=4, base_channels=32, multipliers=(1,), blocks=1)).eval().requires_grad_(False)
        config = InfinityConfig(
            depth=2, width=24, heads=3, bits=4, mlp_ratio=10, text_channels=TEXT_CHANNELS, text_maxlen=4
        )
        infinity = Infinity(config, vae, canvas=CANVAS).eval().requires_grad_(False)
        for parameter in infinity.parameters():
            parameter.normal_(std=0.1)
        return infinity


def small_text(rows: int) -> PackedText:
    """The same prompt of three text tokens, so many times."""
    features = torch.randn(3, TEXT_CHANNELS, generator=torch.Generator().manual_seed(0))
    return PackedText.pack([features] * rows)


def small_official_infinity() -> nn.Module:
    """The same with the structure of the official object; for the size of its images that is square."""
    infinity = small_infinity()
    infinity.canvas = Canvas("1:1", CANVAS.pixels)
    return StandInInfinity(infinity).eval().requires_grad_(False)


def draw_infinity(model: Infinity, rows: int, seed: int, forced: Sequence[Tensor] = ()) -> list[Tensor]:
    """Images, bits and logits of one batch."""
    seeds, text = range(seed, seed + rows), small_text(rows)
    drawn = model.generate(text, seeds=seeds, guidance=2.0, forced=forced, keep_logits=True)
    return [drawn.images, *drawn.tokens, *(drawn.logits or ())]


def force_infinity(model: Infinity, rows: int, seed: int, scales: int) -> list[Tensor]:
    """The same with other bits at the first scales."""
    bits = draw_infinity(small_infinity(), rows, seed)[1:]
    return draw_infinity(model, rows, seed, [~x for x in bits[:scales]])


def draw_official_infinity(model: nn.Module, rows: int, seed: int) -> list[Tensor]:
    """Images, bits and logits of one batch by the official method."""
    ours, text = model.ours[0], small_text(rows)
    schedule = [(1, h, w) for h, w in ours.canvas.maps]
    label = (text.features, list(text.lens), None, max(text.lens))
    guidance = [2.0 + seed % 3] * len(schedule)
    _, bits, image = model.autoregressive_infer_cfg(
        vae=ours.vae, scale_schedule=schedule, label_B_or_BLT=label, B=rows, cfg_list=guidance
    )
    return [image, *bits, *(logits for logits, _ in model.drawn)]


def small_hart() -> HART:
    """A HART of two layers and three heads, always the same one; its weights are initialised anew, as above."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"codes": 16, "code_width": 4, "patch_sides": SIDES}
        tokenizer = VQVAE(VQVAEConfig(**sizes, base_channels=32, multipliers=(1, 1), blocks=1))
        text = {"context_tokens": 3, "context_width": TEXT_CHANNELS}
        diffusion = {"diffusion_width": 8, "diffusion_depth": 1, "diffusion_steps": 2}
        config = HARTConfig(depth=2, width=24, heads=3, hidden=48, **sizes, **text, **diffusion)
        hart = HART(config, tokenizer).eval().requires_grad_(False)
        for parameter in hart.parameters():
            parameter.normal_(std=0.1)
        return hart


def small_context(rows: int) -> Context:
    """The same prompt of two text tokens, so many times."""
    features = torch.randn(2, TEXT_CHANNELS, generator=torch.Generator().manual_seed(0))
    return Context.of([features] * rows, 3)


def small_official_hart() -> nn.Module:
    """The same with the structure of the official object."""
    return StandInHART(small_hart()).eval().requires_grad_(False)


def draw_hart(model: HART, rows: int, seed: int, forced: Sequence[Tensor] = ()) -> list[Tensor]:
    """Images, tokens and logits of one batch."""
    seeds, text = range(seed, seed + rows), small_context(rows)
    drawn = model.generate(text, seeds=seeds, guidance=2.0, forced=forced, keep_logits=True)
    return [drawn.images, *drawn.tokens, *(drawn.logits or ())]


def force_hart(model: HART, rows: int, seed: int, scales: int) -> list[Tensor]:
    """The same with other tokens at the first scales."""
    count = len(SIDES)
    tokens = draw_hart(small_hart(), rows, seed)[1 : 1 + count]
    return draw_hart(model, rows, seed, [(x + 1) % 16 for x in tokens[:scales]])


def draw_official_hart(model: nn.Module, rows: int, seed: int) -> list[Tensor]:
    """Images and logits of one batch by the official method."""
    text = small_context(rows)
    image = model.autoregressive_infer_cfg(text.features, text.real, cfg=2.0 + seed % 3)
    return [image, *(logits for logits, _ in model.drawn)]


PYRAMIDS = Pyramids(
    grids=((1, 1), (2, 2), (3, 4)), frames=(1, 2, 2), repeats=((1, 2, 1), (2, 1, 1), (1, 1, 1)), semantic_scales=2
)
PASSES = len(PYRAMIDS.passes)


def small_star() -> InfinityStar:
    """An InfinityStar of two layers, four heads and two key/value heads, always the same one; initialised anew, as above."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = VideoTokenizer(VideoTokenizerConfig(widths=(4, 4, 8, 8), blocks=1)).eval().requires_grad_(False)
        sizes = {"depth": 2, "width": 32, "heads": 4, "kv_heads": 2, "hidden": 48, "chunks": 2}
        config = InfinityStarConfig(**sizes, text_width=TEXT_CHANNELS, text_window=8)
        star = InfinityStar(config, tokenizer, pyramids=PYRAMIDS, text_tokens=2).eval().requires_grad_(False)
        for parameter in star.parameters():
            parameter.normal_(std=0.1)
        return star


def draw_star(model: InfinityStar, rows: int, seed: int, forced: Sequence[Tensor] = ()) -> list[Tensor]:
    """Clips, bits and logits of one batch."""
    features = torch.randn(1, 2, TEXT_CHANNELS, generator=torch.Generator().manual_seed(0))
    choosing = Choosing(guidance=Guidance((2.0,) * PASSES), temperatures=(1.0,) * PASSES)
    text, seeds = Text(features.expand(rows, -1, -1)), range(seed, seed + rows)
    drawn = model.generate(text, PYRAMIDS, choosing, seeds=seeds, forced=forced, keep_logits=True)
    return [drawn.images, *drawn.tokens, *(drawn.logits or ())]


def force_star(model: InfinityStar, rows: int, seed: int, scales: int) -> list[Tensor]:
    """The same with other bits at the passes of the first maps."""
    bits = draw_star(small_star(), rows, seed)[1 : 1 + PASSES]
    count = sum(sum(PYRAMIDS.repeats, ())[:scales])
    return draw_star(model, rows, seed, [~x for x in bits[:count]])


def small_official_star() -> nn.Module:
    """The same weights in the structure of the official object."""
    return StandInInfinityStar(small_star()).eval().requires_grad_(False)


def draw_official_star(model: nn.Module, rows: int, seed: int) -> list[Tensor]:
    """Clips and logits of one batch by the official method."""
    features = torch.randn(1, 2, TEXT_CHANNELS, generator=torch.Generator().manual_seed(seed))
    choosing = Choosing(guidance=Guidance((2.0,) * PASSES), temperatures=(1.0,) * PASSES)
    clips = model.ar_infer_infinity_elegant(Text(features.expand(rows, -1, -1)), PYRAMIDS, choosing)
    return [clips, *(logits for logits, _ in model.passed)]


SMALL_MODELS = {
    "adapter.hart": TestModel(load=small_hart, draw=draw_hart, force=force_hart),
    "adapter.hart-official": TestModel(load=small_official_hart, draw=draw_official_hart),
    "adapter.infinity": TestModel(load=small_infinity, draw=draw_infinity, force=force_infinity),
    "adapter.infinity-official": TestModel(load=small_official_infinity, draw=draw_official_infinity),
    "adapter.infinitystar": TestModel(load=small_star, draw=draw_star, force=force_star),
    "adapter.infinitystar-official": TestModel(load=small_official_star, draw=draw_official_star),
    "adapter.var": TestModel(load=small_var, draw=draw_ours, force=force_ours),
    "adapter.var-official": TestModel(load=small_official_var, draw=draw_official),
}
