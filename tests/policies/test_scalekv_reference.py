"""ScaleKV as released, against what the official code computed."""

from __future__ import annotations

import json

import pytest
import torch
from attrs import evolve

from scalekv_core import BudgetError, CacheGeometry, CacheView, InputError, ScaleSchedule, plan_policy
from scalekv_policies.scalekv_reference import (
    SQUARE_1M,
    ReleasedAllocator,
    ReleasedClassifier,
    ReleasedSelector,
    max_pooled,
    released_window,
    scalekv_reference,
    summed_logits,
)

MODELS = {
    "2b": CacheGeometry(schedule=SQUARE_1M, layers=32, heads=16, head_dim=128),
    "8b": CacheGeometry(schedule=SQUARE_1M, layers=40, heads=28, head_dim=128),
}
TINY = ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16)
CUTS = ["b_refiner_s7", "c_drafter_s7", "d_refiner_s8", "f_refiner_last"]


def view_of(case) -> CacheView:
    """The official selection's view; a recording has no positions, and the selector uses none."""
    k = case["k"]
    positions = torch.arange(k.shape[2], dtype=torch.int32).expand(*k.shape[:3])
    scale = int(case["scale_index"])
    heads = tuple(range(k.shape[1]))
    layer = int(case["layer_index"])
    return CacheView(
        q=case["q"],
        k=k,
        v=k,
        positions=positions,
        schedule=SQUARE_1M,
        layer=layer,
        scale=scale,
        heads=heads,
        softmax_scale=1.0,
    )


@pytest.mark.parametrize("name", CUTS)
def test_the_same_tokens_stay_as_in_the_official_code(name, golden):
    """Given the same queries, kept tokens are exactly the recorded ones."""
    case = golden(name)
    kept = ReleasedSelector().select(view_of(case), int(case["capacity"]))
    assert torch.equal(case["kept"].long(), kept)


@pytest.mark.parametrize("name", CUTS)
def test_scores_are_those_of_the_official_code(name, golden):
    """Window, summed logits and pooled scores are the recorded ones; window tokens are excluded from the scores."""
    case = golden(name)
    view = view_of(case)
    window = released_window(view.map, 16, torch.device("cpu"))
    assert (case["window"].long() == window + view.history).all()
    summed = summed_logits(view.q[:, :, window], view.k)
    recorded = case["summed_scores"]
    outside = torch.isfinite(recorded)
    torch.testing.assert_close(recorded[outside], summed[outside], atol=2e-5, rtol=0)
    pooled = max_pooled(summed, window + view.history, 5)
    torch.testing.assert_close(case["pooled_scores"], pooled, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("name", "scale", "held"), [("a_below_base", 6, 521), ("e_drafter_s9_within", 9, 2400)])
def test_nothing_goes_where_the_official_code_keeps_everything(name, scale, held, golden):
    """All is kept until 650 tokens are exceeded, and where a drafter's capacity holds the whole history."""
    case = golden(name)
    assert torch.arange(held).tolist() == case["kept"][0, 0].tolist()
    plan = plan_policy(scalekv_reference(), MODELS["2b"]).plan
    assert held <= plan.capacity[scale, int(case["layer_index"]), 0]


@pytest.mark.parametrize("model", MODELS)
def test_roles_and_capacities_are_the_published_ones(model, golden_folder):
    """The plan has every number of the published files, and holds nothing after the last scale."""
    published = json.loads((golden_folder / "budgets.json").read_text())["models"][model]["by_scale_number"]
    geometry = MODELS[model]
    planned = plan_policy(scalekv_reference(), geometry)
    assert list(SQUARE_1M.seen[:7]) == planned.plan.held[:7, -1, 0].tolist()
    for number, row in published.items():
        capacity = planned.plan.held[int(number) - 2]
        drafters = planned.roles.is_role("drafter")[int(number) - 1]
        assert row["drafter_layers"] == [layer for layer in range(geometry.layers) if drafters[layer].all()]
        assert (capacity[drafters] == row["capacity_drafter"]).all()
        assert (capacity[~drafters] == row["capacity_refiner"]).all()
        assert 650 * geometry.slots_per_token == capacity.sum()
    assert not planned.plan.held[12].any()


@pytest.mark.parametrize(("scale", "before"), [(4, None), (5, {0: 110, 1: 60, 2: 60, 3: 60})])
def test_the_window_of_a_whole_generation_is_the_recorded_one(scale, before, golden):
    """Every layer and both guidance halves keep the centres of the 8 x 8 and the 12 x 12 map."""
    case = golden("e2e_like2b_kernel1")
    window = released_window(TINY.maps[scale], 16, torch.device("cpu"))
    for layer in range(4):
        history = TINY.history[scale] if before is None else before[layer]
        kept = case[f"kept_s{scale}_layer{layer}"].long()
        for centre in window + history:
            assert (kept == centre).any(dim=-1).all()
        assert int(kept.max()) < history + TINY.tokens[scale]


def test_scoring_is_of_queries_as_given(golden):
    """The selector takes the recorded scoring queries of a whole generation; keys come from the generating model."""
    queries = golden("e2e_like2b_kernel1")["score_q_s4_layer1_row0"]
    keys = torch.nn.functional.normalize(torch.randn(1, 2, 121, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    positions = torch.arange(121, dtype=torch.int32).expand(1, 2, -1)
    view = CacheView(
        q=queries, k=keys, v=keys, positions=positions, schedule=TINY, layer=1, scale=4, heads=(0, 1), softmax_scale=1.0
    )
    kept = ReleasedSelector(kernel=1).select(view, 60)
    window = released_window((1, 8, 8), 16, torch.device("cpu"))
    total = (queries[:, :, window] @ keys.transpose(2, 3)).sum(dim=2).index_fill(2, window + 57, torch.inf)
    assert torch.equal(total.topk(60).indices.sort().values, kept)


def test_other_maps_take_the_end_as_window():
    """Maps that are not square, or smaller than the grid, are refused."""
    assert list(range(4, 20)) == released_window((1, 4, 5), 16, torch.device("cpu")).tolist()
    assert list(range(9)) == released_window((1, 3, 3), 16, torch.device("cpu")).tolist()
    assert list(range(20, 25)) == released_window((1, 5, 5), 5, torch.device("cpu")).tolist()
    assert 9 == ReleasedSelector().least(ScaleSchedule.square(1, 3, 8), 1)
    assert 16 == ReleasedSelector().least(ScaleSchedule.square(1, 3, 8), 2)


@pytest.mark.parametrize("change", [{"layers": 30}, {"heads": 8}, {"schedule": ScaleSchedule.square(1, 2, 4)}])
def test_other_models_are_refused(change):
    """The message lists the known models and describes this one."""
    with pytest.raises(
        InputError, match=r"released tables for 32 layers x 16 heads, 40 layers x 28 heads .* use policy 'scalekv'"
    ):
        plan_policy(scalekv_reference(), evolve(MODELS["2b"], **change), budget="3 tokens")


def test_other_budgets_and_roles_are_refused():
    """Only a table for 650 tokens was released; other roles would exceed them."""
    with pytest.raises(BudgetError, match=r"released for '650 tokens'; the budget buys 642.5"):
        plan_policy(scalekv_reference(), MODELS["2b"], budget="10%")
    roles = ReleasedClassifier().classify(None, MODELS["2b"])
    roles.labels[9] = 1
    with pytest.raises(BudgetError, match="goes with classifier 'scalekv-reference'"):
        ReleasedAllocator().allocate(MODELS["2b"], roles, 650 * 512)
