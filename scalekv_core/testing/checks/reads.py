"""What a whole policy is checked for where maps are not read by all later ones, text comes first, and heads share keys.

The cache sees to most of it. Here it does so together with the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from attrs import evolve, frozen
from torch import Tensor

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import TokenSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import ImageCase
from scalekv_core.testing.checks import whole
from scalekv_core.testing.common import Refused, all_same, made_on_few, only_if
from scalekv_core.testing.images import Image, Seen, plan_for

Make = Callable[[], Policy]
for_all = only_if(lambda policy: not whole.is_for_some(policy), "it is for other models")


@frozen
class _Showing(TokenSelector):
    """Another selector, whose views are noted."""

    inner: TokenSelector
    views: _Views

    @property
    def statistics(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.inner.statistics

    @property
    def claims(self) -> frozenset[str]:
        return self.inner.claims

    def least(self, schedule: ScaleSchedule, scale: int) -> int:
        return self.inner.least(schedule, scale)

    def observe(self, view: CacheView) -> Mapping[str, Tensor]:
        self.views.note(view)
        return self.inner.observe(view)

    def select(self, view: CacheView, keep: int) -> Tensor:
        self.views.note(view)
        return self.inner.select(view, keep)

    def select_by_source(self, view: CacheView, keeps: Sequence[tuple[int, int, int]]) -> Tensor:
        self.views.note(view)
        return self.inner.select_by_source(view, keeps)


class _Views:
    """(scale, source scales of the tokens in view) of every question, and whether the current map stood at the end."""

    def __init__(self) -> None:
        self.noted: list[tuple[ScaleSchedule, int, set[int], bool]] = []

    def note(self, view: CacheView) -> None:
        maps = view.schedule
        edges = torch.tensor(maps.seen)
        sources = set(torch.bucketize(view.positions.flatten().long(), edges, right=True).tolist())
        current = torch.arange(maps.history[view.scale], maps.seen[view.scale])
        whole_map = torch.equal(
            view.positions[..., view.history :].long(), current.expand(*view.positions.shape[:2], -1)
        )
        self.noted.append((maps, view.scale, sources, whole_map))


def as_video(case: ImageCase) -> ImageCase:
    """The case as text, a picture and two clips, of which every map reads the text and the last map before its clip."""
    sizes = [(1, 1, 3), (1, 1, 2), (1, 2, 3), (2, 1, 2), (2, 2, 3), (2, 1, 2), (2, 2, 3)]
    reads = [[], [0], [0], [0, 2], [0, 2], [0, 4], [0, 4]]
    maps = ScaleSchedule(sizes, reads=reads, prefix=True)
    return evolve(case.with_several(layers=2), maps=maps, budget="")


@for_all
@made_on_few(5, real_sizes=0)
def check_unread_maps_are_dropped(make: Make, case: ImageCase) -> None:
    """After every scale only tokens are held that a later map reads, whatever the policy keeps, in the planned bytes."""
    case = as_video(case)
    image, seen = Image.of(_with_enough(make(), case), case), Seen()
    cache = image.cache(seen)
    image.generate(cache)
    for view, kept in zip(seen.views, seen.kept, strict=True):
        alive = set(case.maps.alive[view.scale])
        found = {case.maps.scale_of(position) for position in kept.flatten().tolist()}
        assert found <= alive, (
            f"after scale {view.scale} tokens of map {min(found - alive)} are held; no later map reads it"
        )
    planned = image.planned.footprint.planned
    assert tuple(cache.resident) == planned, f"{planned} bytes are planned and {tuple(cache.resident)} are resident"


@for_all
@made_on_few(5, real_sizes=0)
def check_only_what_is_read_later_is_seen(make: Make, case: ImageCase) -> None:
    """No selector sees a text, or a map that no later one reads: they would be kept in vain."""
    case, views = as_video(case), _Views()
    policy = _with_enough(make(), case)
    image = Image.of(evolve(policy, selector=_Showing(policy.selector, views)), case)
    image.generate(image.cache())
    for maps, scale, sources, whole_map in views.noted:
        assert maps == case.maps.without_prefix, f"at scale {scale} the selector sees maps {maps}"
        others = sources - set(maps.alive[scale])
        assert not others, f"at scale {scale} the selector sees map {min(others)}, which no later map reads"
        assert whole_map, f"at scale {scale} the selector does not see the current map whole"


@for_all
@made_on_few(5, real_sizes=0)
def check_the_text_is_kept(make: Make, case: ImageCase) -> None:
    """Every head holds the whole text for as long as a map reads it."""
    case = as_video(case)
    image, seen = Image.of(_with_enough(make(), case), case), Seen()
    image.generate(image.cache(seen))
    text = torch.arange(case.maps.tokens[0])
    for view, kept in zip(seen.views[: -len(image.layers)], seen.kept, strict=False):
        if view.scale < len(case.maps) - 1:
            first = kept[..., : len(text)]
            assert torch.equal(first, text.expand_as(first)), f"after scale {view.scale} tokens of the text are gone"


@for_all
@made_on_few(5, real_sizes=0)
def check_grouped_heads_store_each_key_once(make: Make, case: ImageCase) -> None:
    """Query heads that share a key/value head cost no memory: the bytes are those of one query head for each."""
    case = evolve(case, budget="")
    policy = _with_enough(make(), case)
    alone = plan_for(policy, case).footprint.planned
    image = Image.of(policy, evolve(case, group=3))
    cache = image.cache()
    outputs = image.generate(cache)
    assert image.planned.footprint.planned == alone, "grouped heads are planned otherwise"
    assert tuple(cache.resident) == image.planned.footprint.planned, (
        f"{image.planned.footprint.planned} bytes are planned and {tuple(cache.resident)} are resident"
    )
    assert all(out.shape[1] == 3 * image.planned.geometry.heads for out in outputs), (
        "not every query head has an output"
    )


@for_all
@made_on_few(5, real_sizes=0)
def check_a_pass_that_is_not_stored_leaves_nothing(make: Make, case: ImageCase) -> None:
    """A map that is passed twice is what it is when it is passed once: only the last pass is stored and asked about."""
    case = evolve(case, budget="")
    image = Image.of(_with_enough(make(), case), case)
    expected = image.generate(image.cache())
    cache, outputs = image.cache(), []
    for scale in range(len(image.planned.plan.schedule)):
        for layer in range(len(image.layers)):
            q, k, v = image.map(scale, layer)
            cache.attend(layer, q, k * 2, v, softmax_scale=image.softmax_scale, store=False)
        outputs += image.generate_scale(cache, scale)
    assert all_same(expected, outputs), "a pass that is not stored changes later ones"


def _with_enough(policy: Policy, case: ImageCase) -> Policy:
    """The policy with a budget that buys enough of the small maps here; with the whole history where it refuses less."""
    if not policy.allocator.spends_all:
        return policy
    generous = evolve(policy, budget="85%")
    try:
        plan_for(generous, case)
    except Refused:
        return evolve(policy, budget="100%")
    return generous
