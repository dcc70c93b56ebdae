"""The tiny InfinityStar whose every number was recorded from the official code (see tests/data/golden)."""

from __future__ import annotations

import copy
import functools
import json
from collections import Counter

from attrs import frozen
from safetensors import safe_open
from torch import Tensor

from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.generation import InfinityStar
from scalekv_adapters.infinitystar.guidance import Choosing, Guidance
from scalekv_adapters.infinitystar.pyramids import Pyramids
from scalekv_adapters.infinitystar.story import Story
from scalekv_adapters.infinitystar.text import Text
from scalekv_core.cache.concat_cache import ConcatCache
from tests.adapters.infinitystar.tokenizer_data import GOLDEN, golden_tokenizer, recorded, told

SIZES = {
    "depth": 4, "width": 128, "heads": 4, "kv_heads": 2, "hidden": 256, "chunks": 2, "text_width": 48,
}  # fmt: skip
CASES = ("ns_cfg", "sq_apg", "ns_i2v", "image", "interactive")


@functools.cache
def golden_star() -> InfinityStar:
    """The transformer with the recorded weights; not to be changed."""
    model = InfinityStar(InfinityStarConfig(**SIZES), golden_tokenizer())
    state = {name[4:]: x.float() for name, x in recorded("weights").items() if name.startswith("net.")}
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False)


def new_star() -> InfinityStar:
    """One that may be changed."""
    return copy.deepcopy(golden_star())


@functools.cache
def how_of(name: str) -> dict:
    """What the header says of a case."""
    if name != "interactive":
        return told("cases")[name]
    with safe_open(GOLDEN / "interactive.safetensors", "pt") as opened:
        return json.loads(opened.metadata()["case"])


@frozen(eq=False)
class Case:
    """A recorded generation: what went in, and what came out by name."""

    text: Text
    pyramids: Pyramids
    choosing: Choosing
    story: Story | None
    want: dict[str, Tensor]
    names: tuple[str, ...]
    """s{scale}_r{repetition} of every pass."""
    layer: int
    scale: int

    @property
    def bits(self) -> list[Tensor]:
        """The recorded bits (1, n, d) of every pass."""
        return [self.want[f"bits_{name}"].flatten(1, 3).bool() for name in self.names]


def case_of(name: str) -> Case:
    """The recorded generation of this name."""
    how = how_of(name)
    if name == "interactive":
        want = recorded("interactive")
        story = Story(want["former"], want["first"])
    else:
        want = {key[len(name) + 1 :]: x for key, x in recorded("io").items() if key.startswith(f"{name}.")}
        story = None
    schedule = [tuple(grid) for grid in how["schedule"]]
    frames = [tuple(span) for span in how["frames"]]
    scales = Counter(frames)[frames[0]]
    grids = tuple(grid[1:] for grid in schedule[:scales])
    starts = range(0, len(schedule), scales)
    pyramids = Pyramids(
        grids=grids,
        frames=tuple(schedule[start][0] for start in starts),
        repeats=tuple(tuple(how["repeats"][start : start + scales]) for start in starts),
        semantic_scales=how["semantic_scales"],
        conditions=((20, *grids[how["semantic_scale_ind"]]), (3, *grids[-1])) if story else (),
    )
    steps = [(scale, r) for scale, times in enumerate(how["repeats"]) for r in range(times)]
    each = {key: how[key] if isinstance(how[key], list) else [how[key]] * len(schedule) for key in ("cfg", "tau")}
    threshold = how["apg_norm_threshold"] if how.get("apg") else None
    return Case(
        text=Text(want["text"][None], want["negative"][None] if "negative" in want else None),
        pyramids=pyramids,
        choosing=Choosing(
            guidance=Guidance(tuple(float(each["cfg"][scale]) for scale, _ in steps), threshold),
            temperatures=tuple(float(each["tau"][scale]) for scale, _ in steps),
        ),
        story=story,
        want=want,
        names=tuple(f"s{scale}_r{r}" for scale, r in steps),
        layer=how["capture"]["layer"],
        scale=how["capture"]["scale"],
    )


class Watching(ConcatCache):
    """The unmodified cache, which notes what every stored pass of every map was given and answered."""

    def __init__(self, schedule) -> None:
        super().__init__(schedule)
        self.schedule = schedule
        self.own: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.asked: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def attend(self, layer, q, k, v, *, softmax_scale, store=True):
        number = self._scales[layer]
        out = super().attend(layer, q, k, v, softmax_scale=softmax_scale, store=store)
        if store:
            self.own[layer, number], self.asked[layer, number] = (k, v), (q, out)
        return out


def generated(case: Case, *, forced: int):
    """(generation, inputs by pass, hidden states by run, the cache); so many passes take the recorded bits."""
    caches, hidden, inputs, model = [], [], [], new_star()
    model.new_cache = lambda schedule: caches.append(Watching(schedule)) or caches[-1]
    run, embed = model.run_blocks, model.embed_map
    model.run_blocks = lambda *given, **options: hidden.append(run(*given, **options)) or hidden[-1]
    model.embed_map = lambda x: inputs.append(x) or embed(x)
    drawn = model.generate(
        case.text,
        case.pyramids,
        case.choosing,
        seeds=None,
        story=case.story,
        forced=case.bits[:forced],
        keep_logits=True,
    )
    return drawn, inputs, hidden, caches[0], model


def unrepeated(x: Tensor, heads: int) -> Tensor:
    """Recorded keys or values (B, H, n, D) with each key/value head once."""
    return x if x.shape[1] == heads else x[:, :: x.shape[1] // heads]
