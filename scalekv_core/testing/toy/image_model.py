"""The toy as an image model: prompts in, pictures out; its steps alone; its card."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import cast

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.errors import InputError
from scalekv_core.models.bare_model import BareModel
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.models.requests import Seeds
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.steps import OnScale
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.testing.toy.transformer import GEOMETRY, SAMPLING, VIDEO_GEOMETRY, ToyBlock, ToyModel, picture


class ToyImageModel(ImageModel):
    """The toy model with prompts "0" to "9" and pictures of its codes, or clips where its last map has several frames."""

    def __init__(self, module: ToyModel, name: str = "toy") -> None:
        self.name = name
        self.module = module
        self.schedule = module.schedule
        self.sampling = SAMPLING
        self.profile = None

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Seeds,
        sampling: Sampling | None = None,
        forced: Sequence[Tensor] | None = None,
        keep_logits: bool = False,
        on_scale: OnScale | None = None,
    ) -> Generation:
        prompts, seeds = self.check_prompts(prompts), self.check_seeds(prompts, seeds)
        if not all(prompt in "0123456789" and len(prompt) == 1 for prompt in prompts):
            raise InputError(f"model {self.name!r} generates from the prompts 0 to 9; got {', '.join(prompts)}")
        forced, scales = forced or (), len(self.schedule.without_prefix)
        if len(forced) > scales:
            raise InputError(f"model {self.name!r} has {scales} scales; got forced tokens of {len(forced)}")
        labels = torch.tensor([int(prompt) for prompt in prompts])
        tokens, choices, logits = cast(ToyModel, self.module).draw(labels, forced, on_scale)
        return Generation(
            images=picture(tokens[-1], self.schedule),
            tokens=tuple(tokens),
            choices=tuple(choices),
            logits=tuple(logits) if keep_logits else None,
        )


class BareToy(BareModel):
    """The toy model's steps, wherever it is and whatever its weights are."""

    def __init__(self, module: ToyModel) -> None:
        self.module = module
        self.schedule = module.schedule
        self.parts = {"transformer": module}
        blocks = [block for block in module.blocks if isinstance(block, ToyBlock)]
        self.blocks = blocks
        self.projections = [(block, block.qkv.weight) for block in blocks]

    def generate(self, images: int, cache: AttentionCache, *, guidance: bool = True) -> Generator[None, None, None]:
        labels = torch.zeros(images * (1 + guidance), dtype=torch.int64, device=self.module.head.weight.device)
        for _ in self.module.steps(labels, cache):
            yield

    def decode(self, images: int) -> Tensor:
        device = self.module.head.weight.device
        return picture(torch.zeros(images, self.schedule.tokens[-1], dtype=torch.int64, device=device), self.schedule)


@frozen(kw_only=True)
class ToyCard(ModelCard):
    """The toy model, made anew from a fixed seed at every load."""

    summary: str = "random codes, for tests"
    weights: str = "made from a fixed seed"
    geometry: CacheGeometry = GEOMETRY
    sampling: Sampling = SAMPLING
    passes: int = 1
    name: str = "toy"

    def load(
        self,
        *,
        weights: Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        allow_nonfinite: bool = False,
    ) -> ImageModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return ToyImageModel(self._module(self.geometry).to(device, dtype).eval(), self.name)

    def _module(self, shape: CacheGeometry, layers: int | None = None) -> ToyModel:
        return ToyModel(
            layers=layers or shape.layers,
            heads=shape.heads,
            head_dim=shape.head_dim,
            group=shape.group,
            schedule=shape.schedule,
            passes=self.passes,
        )

    def bare(
        self,
        *,
        aspect: str | None = None,
        size: str | None = None,
        layers: int | None = None,
        device: str | torch.device = "meta",
        dtype: torch.dtype | None = None,
    ) -> BareToy:
        shape = self.shape(aspect=aspect, size=size)
        with torch.device(device):
            module = self._module(shape, layers)
        return BareToy(module.to(dtype or shape.dtype).eval().requires_grad_(False))

    @property
    def example(self) -> str:
        return "3"


VIDEO_CARD = ToyCard(
    summary="random codes with text in front, a picture and a clip, on grouped heads; for tests",
    geometry=VIDEO_GEOMETRY,
    passes=2,
    name="toy-video",
    fps=4,
)
