"""Checks of whole images through the real cache, for policies and for a part alone with everything else at its simplest."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from attrs import evolve
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import CacheCodec, TokenMerger, TokenSelector
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import ImageCase
from scalekv_core.testing.common import all_same
from scalekv_core.testing.images import Image
from scalekv_core.testing.state import Contents
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


def busy(case: ImageCase) -> ImageCase:
    """The case with several layers, enough tokens, and half of the history as budget, so that every part is asked."""
    maps = case.maps
    if len(maps) < 3 or maps.last_history < 12:
        maps = ScaleSchedule([(1, 1, 2), (1, 2, 3), (1, 3, 3), *maps.maps])
    return evolve(case.with_several(layers=3), maps=maps, budget="50%")


def images_do_not_mix(make: Callable[[], Policy], case: ImageCase) -> None:
    """Two images of one policy value, scale by scale in turns, are what they are one after the other."""
    policy = make()
    case = case if is_for_some(policy) else busy(case)
    untouched = Contents.of(policy)
    try:
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
    finally:
        untouched.restore()


def nothing_is_hoarded(make: Callable[[], Policy], case: ImageCase) -> None:
    """After each scale no storage of an earlier map's keys and values is alive: the cache keeps copies."""
    policy = make()
    case = case if is_for_some(policy) else busy(case)
    untouched = Contents.of(policy)
    try:
        image = Image.of(policy, case)
        cache, given = image.cache(), []
        for scale in range(len(case.maps)):
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
    finally:
        untouched.restore()


def _bytes_after(image: Image) -> int:
    """Bytes of all tensors that Python holds after another such image."""
    cache = image.cache()
    image.generate(cache)
    cache.close()
    del cache
    gc.collect()
    storages = {}
    for held in gc.get_objects():
        if type(held) is Tensor and held.layout is torch.strided and held.device.type != "meta":
            storages[held.untyped_storage().data_ptr()] = held.untyped_storage().nbytes()
    return sum(storages.values())
