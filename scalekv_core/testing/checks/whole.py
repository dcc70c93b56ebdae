"""Checks of whole images through the real cache, for policies and for a part alone with everything else at its simplest."""

from __future__ import annotations

import gc
import types
from collections.abc import Callable, Iterator
from typing import Any

from attrs import evolve
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from scalekv_core.cache.kv_cache import KVCache
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import CacheCodec, TokenMerger, TokenSelector
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import ImageCase
from scalekv_core.testing.checks.remembering import forgotten
from scalekv_core.testing.common import Refused, all_same
from scalekv_core.testing.images import Image, plan_for
from scalekv_core.testing.toy import Even, Latest


def is_for_some(policy: Policy) -> bool:
    """Whether it is for some models only."""
    return bool(policy.allocator.only_for or policy.classifier.only_for)


def policy_around(part: Any) -> Policy:
    """A policy of this selector, merger or codec, and the simplest of everything else."""
    parts: dict[str, Any] = {"allocator": Even(), "selector": Latest()}
    for name, kind in (("selector", TokenSelector), ("merger", TokenMerger), ("codec", CacheCodec)):
        if isinstance(part, kind):
            parts[name] = part
    return Policy(name=f"the kit's, around {type(part).__name__}", budget="50%", **parts)


def busy(policy: Policy, case: ImageCase) -> ImageCase:
    """The case with several layers, enough tokens, and a budget under which every part is asked, if the policy takes any.

    A policy that refuses half of a history, as one that keeps the first maps whole may, gets a longer one. A policy that is
    for some models only gets the case as it is.
    """
    if is_for_some(policy):
        return case
    maps = case.maps
    if len(maps) < 3 or maps.last_history < 12:
        maps = ScaleSchedule([(1, 1, 2), (1, 2, 3), (1, 3, 3), *maps.maps])
    case = evolve(case.with_several(layers=3), maps=maps, budget="50%" if policy.allocator.spends_all else "")
    try:
        plan_for(policy, case)
    except Refused:
        *earlier, last = maps.maps
        return evolve(case, maps=ScaleSchedule([*earlier, (1, 2, maps.last_history), last]))
    return case


def images_do_not_mix(make: Callable[[], Policy], case: ImageCase) -> None:
    """Two images of one policy value, scale by scale in turns, are what they are one after the other."""
    policy = make()
    case = busy(policy, case)
    with forgotten(policy) as untouched:
        other = evolve(case, seed=case.seed + 1, rows=case.rows + 1)
        one, two = Image.of(policy, case), Image.of(policy, other)
        expected = one.generate(one.cache()), two.generate(two.cache())
        untouched.restore()
        caches = one.cache(), two.cache()
        actual: tuple[list[Tensor], list[Tensor]] = ([], [])
        for scale in range(len(case.maps)):
            for image, cache, outputs in zip((one, two), caches, actual, strict=True):
                outputs += image.generate_scale(cache, scale)
        for name, before, after in zip(("first", "second"), expected, actual, strict=True):
            assert all_same(before, after), f"of two images that are generated alternately the {name} is another one"


def nothing_is_hoarded(make: Callable[[], Policy], case: ImageCase) -> None:
    """Within an image no tensor is alive beside the cache's; after it, no storage of the model's keys and values.

    It is the second image of its shape: tables that depend on shapes alone are there already.
    """
    policy = make()
    case = busy(policy, case)
    with forgotten(policy):
        image = Image.of(policy, case)
        image.generate(image.cache())
        earlier = {
            id(x): x for x in live_tensors()
        }  # they are held, so that no new tensor gets the id of one that is gone
        cache, given = image.cache(), []
        for scale in range(len(case.maps)):
            if scale == len(case.maps) - 1:
                _assert_alone(cache, image.planned.policy, earlier)
            for layer in range(len(image.layers)):
                maps = [x.clone() for x in image.map(scale, layer)]
                given += [
                    (scale, name, StorageWeakRef(x.untyped_storage())) for name, x in zip("qkv", maps, strict=True)
                ]
                image.attend_with(cache, layer, maps)
                del maps
        gc.collect()
        alive = [f"{name} of scale {scale}" for scale, name, storage in given if not storage.expired()]
        assert not alive, (
            f"beside the cache {len(alive)} tensors of the model are kept in memory, among them {alive[0]}"
        )


def live_tensors() -> list[Tensor]:
    """Every tensor with values that Python holds."""
    gc.collect()
    return [x for x in gc.get_objects() if type(x) is Tensor and x.device.type != "meta"]


def _assert_alone(cache: KVCache, policy: Policy, earlier: dict[int, Tensor]) -> None:
    """No tensor that was made since is in memory but those of the cache."""
    own = {x.untyped_storage().data_ptr() for x in reached_from(cache, policy, *policy.parts.values())}
    beside = [x for x in live_tensors() if id(x) not in earlier and x.untyped_storage().data_ptr() not in own]
    if beside:
        sizes = [x.untyped_storage().nbytes() for x in beside]
        raise AssertionError(
            f"beside the cache {len(beside)} tensors stay in memory within an image, the largest of {max(sizes)} bytes"
        )


def reached_from(holder: object, *aside: object) -> Iterator[Tensor]:
    """Every tensor that an object holds, however deep, but not what it reaches through those that are set aside."""
    code = (type, types.ModuleType, types.FunctionType)
    seen, ahead = set(map(id, aside)), [holder]
    while ahead:
        value: Any = ahead.pop()
        if id(value) in seen or isinstance(value, code):
            continue
        seen.add(id(value))
        if type(value) is Tensor:
            yield value
        else:
            ahead += gc.get_referents(value)
