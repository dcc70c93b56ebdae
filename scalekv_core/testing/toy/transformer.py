"""The toy's transformer: attention through a cache that a session may replace, and maps of random codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.models.finite import FiniteLogits
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.steps import OnScale, ScaleStep
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


def picture(tokens: Tensor, schedule: ScaleSchedule, scale: int = -1) -> Tensor:
    """(B, 3, H, W) of the tokens (B, n) of a map, the last one by default; (B, 3, F, H, W) where that has F frames."""
    frames, height, width = schedule.maps[-1]
    pixels = tokens.view(-1, 1, *schedule.maps[scale]).expand(-1, 3, -1, -1, -1) / (CODES - 1)
    clips = F.interpolate(pixels, size=(frames, 8 * height, 8 * width))
    return clips if frames > 1 else clips[:, :, 0]
