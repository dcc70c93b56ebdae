"""The cache under autocast, under torch.compile, and with layers on several devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from scalekv_core import CacheGeometry, CachePlan, CacheView, KVCache, ScaleSchedule, ScoringSelector, compress
from scalekv_policies import Fold, Int4
from tests.conformance.small_models import SMALL_MODELS
from tests.plain import Case, Seen, drive, policy_of

SCHEDULE = ScaleSchedule.square(1, 2, 3, 4)
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=2, heads=2, head_dim=8, rows=2)


class Looked(ScoringSelector):
    """Records what the map attends to."""

    def score(self, view: CacheView, keep: int) -> Tensor:
        return view.attention_mass()


def case_of(first: list[int], second: list[int]) -> Case:
    """Two layers whose two heads hold so many tokens after each scale."""
    capacity = np.stack([first, second], axis=1)[:, None].repeat(2, axis=1)
    return Case(CachePlan(SCHEDULE, capacity), GEOMETRY)


@pytest.mark.parametrize("second", [[1, 3, 4, 0], [1, 4, 9, 0]], ids=["one group", "two groups"])
@pytest.mark.parametrize("parts", [{}, {"merger": Fold(), "codec": Int4()}], ids=["drop", "fold int4"])
def test_autocast_changes_attention_and_nothing_else(second: list[int], parts: dict[str, object]) -> None:
    """Attention runs in bfloat16, as the unmodified model's would; kept tokens and bytes are the same."""
    case, policy = case_of([1, 3, 4, 0], second), policy_of(Looked(), **parts)
    seen = [Seen(), Seen()]
    caches = [KVCache(case.plan, policy, check=True, observer=watching) for watching in seen]
    plain = drive(case, caches[0])
    with torch.autocast("cpu", torch.bfloat16):
        cast = drive(case, caches[1])

    assert all(out.dtype == torch.bfloat16 for layers in cast for out in layers)
    assert caches[0].resident == caches[1].resident
    for where, views in seen[0].views.items():
        for (mine, stay), (theirs, others) in zip(views, seen[1].views[where], strict=True):
            assert torch.equal(mine.k, theirs.k)
            assert stay is others is None or torch.equal(stay, others)
    for ours, theirs in zip(plain, cast, strict=True):
        for x, y in zip(ours, theirs, strict=True):
            torch.testing.assert_close(y.float(), x, rtol=0.05, atol=0.05)


COMPILED = [
    ("var", "full", {}),
    ("var-official", "scalekv", {}),
    ("infinity", "fold", {}),
    ("infinity-official", "fold", {"codec": "int8"}),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("model", "policy", "parts"), COMPILED, ids=[model for model, *_ in COMPILED])
def test_a_compiled_model_draws_the_same(model: str, policy: str, parts: dict[str, str]) -> None:
    """torch.compile breaks the graph at the cache, and images are bit-identical."""
    budget = "100%" if policy == "full" else "50%"
    parts = {"classifier": "one-role"} if policy == "scalekv" else parts
    test_model, drawn = SMALL_MODELS[f"adapter.{model}"], []
    for compiled in (False, True):
        module = test_model.load()
        blocks = [layer for layer in module.modules() if hasattr(layer, "attn") or hasattr(layer, "sa")]
        assert len(blocks) == 2
        for block in blocks * compiled:
            block.compile(backend="eager")
        with compress(module, policy, budget, **parts):
            drawn.append(test_model.draw(module, 1, 0))

    assert all(torch.equal(x, y) for x, y in zip(*drawn, strict=True))


def test_layers_may_lie_on_several_devices() -> None:
    """Tensors of a layer stay on its device, and devices are independent of each other."""
    case = case_of([1, 3, 4, 0], [1, 4, 9, 0])
    policy = policy_of(Looked(), merger=Fold(), codec=Int4())
    alone = drive(case, KVCache(case.plan, policy))
    spread = [tuple(x.to(device) for x in layer) for layer, device in zip(case.tensors, ("cpu", "meta"), strict=True)]
    cache = KVCache(case.plan, policy)
    for scale, maps in enumerate(case.maps(scale, spread) for scale in range(len(SCHEDULE))):
        for layer, (q, k, v) in enumerate(maps):
            out = cache.attend(layer, q, k, v, softmax_scale=case.softmax_scale)
            assert q.device == out.device
            assert layer or torch.equal(alone[scale][0], out)
        devices = [{x.device.type for group in store.groups for x in group.tensors()} for store in cache._layers]
        assert devices == ([{"cpu"}, {"meta"}] if scale < 3 else [set(), set()])
