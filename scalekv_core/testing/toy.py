"""A toy model with everything that a real one has: a seam for the cache, an adapter, a card. Random weights, no sense.

It is the shortest complete example of what an adapter and an image model are, and what core's own tests run on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from scalekv_core import ops
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.adapter import AttentionCache, CacheSource, ModelAdapter
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator, TokenSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.errors import InputError
from scalekv_core.models.bare_model import BareModel
from scalekv_core.models.card import ModelCard
from scalekv_core.models.finite import FiniteLogits
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.models.requests import Seeds
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.steps import OnScale, ScaleStep
from scalekv_core.plugins.hookspecs import hookimpl
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

CODES = 16
SCHEDULE = ScaleSchedule([(1, 1), (2, 1), (2, 3), (4, 5)])
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=3, heads=4, head_dim=8)
VIDEO = ScaleSchedule(
    [(1, 5), (1, 1), (2, 2), (2, 3), (2, 2, 2), (2, 2, 3), (2, 3, 4)],
    prefix=True,  # map 0 is text
    reads=[
        [],
        [0],
        [0],
        [0],
        [0, 3],
        [0, 3],
        [0, 3],
    ],  # the last picture map starts the clip; no other one is read again
)
VIDEO_GEOMETRY = CacheGeometry(schedule=VIDEO, layers=3, heads=2, group=2, head_dim=8)
SAMPLING = Sampling(greedy=True)


class ToyBlock(nn.Module):
    """One layer: attention and what it adds; ``group`` query heads share a key/value head."""

    def __init__(self, layer: int, heads: int, head_dim: int, group: int = 1) -> None:
        super().__init__()
        self.layer, self.numbers = layer, (group * heads, heads, heads)
        self.qkv = nn.Linear(group * heads * head_dim, (group + 2) * heads * head_dim)

    def forward(self, x: Tensor, cache: AttentionCache, *, store: bool = True) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (sum(self.numbers), -1)).transpose(1, 2)
        q, k, v = heads.split(self.numbers, dim=1)  # q (B, g H, n, D), k and v (B, H, n, D)
        attend = cache.attend if store else partial(cache.attend, store=False)
        attended = attend(self.layer, q, k, v, softmax_scale=1.0)
        return x + attended.transpose(1, 2).flatten(2)


class ToyModel(nn.Module):
    """A transformer that generates maps of random codes. ``new_cache`` is where a session puts its own caches.

    Args:
        layers, heads, head_dim: of the attention; heads are key/value heads.
        group: query heads of each.
        schedule: the maps. If map 0 is text, it is passed like any other and generates nothing.
        passes: how often each map is passed; it is stored the last time.
    """

    def __init__(
        self,
        *,
        layers: int = 3,
        heads: int = 4,
        head_dim: int = 8,
        group: int = 1,
        schedule: ScaleSchedule = SCHEDULE,
        passes: int = 1,
    ) -> None:
        super().__init__()
        width = group * heads * head_dim
        self.heads, self.group, self.schedule, self.passes = heads, group, schedule, passes
        self.prompts = nn.Embedding(10, width)
        self.codes = nn.Embedding(CODES, width)
        self.places = nn.Embedding(schedule.total, width)
        self.blocks = nn.ModuleList(ToyBlock(layer, heads, head_dim, group) for layer in range(layers))
        self.head = nn.Linear(width, CODES)
        self.new_cache: Callable[[ScaleSchedule], AttentionCache] = ConcatCache

    def draw(
        self, labels: Tensor, forced: Sequence[Tensor] = (), on_scale: OnScale | None = None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """(tokens, choices, logits) of every scale that generates; (B, n), (B, n), (B, n, codes)."""
        cache = self.new_cache(self.schedule)
        try:
            steps: list[tuple[Tensor, Tensor, Tensor]] = []
            finite = FiniteLogits("the toy model")
            for step in islice(self.steps(labels, cache, forced), self.schedule.prefix, None):
                finite.see(step[-1])
                if on_scale is not None:
                    on_scale(self.told(len(steps), step[0]))
                steps.append(step)
            finite.check()
            tokens, choices, logits = map(list, zip(*steps, strict=True))
        finally:
            cache.close()
        return tokens, choices, logits

    def told(self, scale: int, tokens: Tensor) -> ScaleStep:
        """What a caller is told of a scale: its own map is the image so far."""
        maps = self.schedule.without_prefix
        return ScaleStep(scale=scale, scales=len(maps), decode=lambda: picture(tokens, maps, scale))

    def steps(
        self, labels: Tensor, cache: AttentionCache, forced: Sequence[Tensor] = ()
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields tokens, choices and logits, scale by scale."""
        x = self.prompts(labels)[:, None]  # (B, 1, C)
        for scale, n in enumerate(self.schedule.tokens):
            start = self.schedule.history[scale]
            x = x.mean(dim=1, keepdim=True) + self.places.weight[start : start + n]  # (B, n, C)
            for number in range(1, self.passes):
                h = x + number
                for block in self.blocks:
                    h = block(h, cache, store=False)
            for block in self.blocks:
                x = block(x, cache)
            logits = self.head(x)
            choices = logits.argmax(dim=-1)
            place = scale - self.schedule.prefix
            tokens = forced[place] if 0 <= place < len(forced) else choices
            yield tokens, choices, logits
            x = self.codes(tokens)


class ToyAdapter(ModelAdapter):
    """Swaps the instance's ``new_cache`` and puts the old one back."""

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, ToyModel)

    def geometry(self, model: nn.Module) -> CacheGeometry:
        toy = cast(ToyModel, model)
        width = toy.prompts.embedding_dim
        return CacheGeometry(
            schedule=toy.schedule,
            layers=len(toy.blocks),
            heads=toy.heads,
            group=toy.group,
            head_dim=width // (toy.heads * toy.group),
            dtype=toy.prompts.weight.dtype,
        )

    def attach(self, model: nn.Module, source: CacheSource) -> Callable[[], None]:
        toy = cast(ToyModel, model)
        before = toy.new_cache
        toy.new_cache = source.new_cache

        def detach() -> None:
            toy.new_cache = before

        return detach


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


def picture(tokens: Tensor, schedule: ScaleSchedule, scale: int = -1) -> Tensor:
    """(B, 3, H, W) of the tokens (B, n) of a map, the last one by default; (B, 3, F, H, W) where that has F frames."""
    frames, height, width = schedule.maps[-1]
    pixels = tokens.view(-1, 1, *schedule.maps[scale]).expand(-1, 3, -1, -1, -1) / (CODES - 1)
    clips = F.interpolate(pixels, size=(frames, 8 * height, 8 * width))
    return clips if frames > 1 else clips[:, :, 0]


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


@frozen
class Even(BudgetAllocator):
    """The same capacity everywhere."""

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        share = slots // geometry.slots_per_token
        keepable = np.minimum(geometry.schedule.keepable(), share)
        shape = (len(geometry.schedule), geometry.layers, geometry.heads)
        return CachePlan(geometry.schedule, np.broadcast_to(keepable[:, None, None], shape))


@frozen
class Latest(TokenSelector):
    """The last tokens."""

    def select(self, view: CacheView, keep: int) -> Tensor:
        return ops.all_tokens(view.k, view.tokens - keep, view.tokens)


def latest() -> Policy:
    """The toy policy: equal capacities, last tokens."""
    return Policy(name="toy-latest", allocator=Even(), selector=Latest(), budget="50%", paper="none")


@hookimpl
def scalekv_policies() -> dict[str, Callable[[], Policy]]:
    return {"toy-latest": latest}


@hookimpl
def scalekv_token_selectors() -> dict[str, Callable[[], TokenSelector]]:
    return {"toy-latest": Latest}


@hookimpl
def scalekv_model_adapters() -> dict[str, Callable[[], ModelAdapter]]:
    return {"toy": ToyAdapter}


@hookimpl
def scalekv_image_models() -> dict[str, Callable[[], ModelCard]]:
    return {"toy": ToyCard, "toy-video": lambda: VIDEO_CARD}
