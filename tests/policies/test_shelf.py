"""What every policy on the shelf promises, whatever its method."""

from __future__ import annotations

import re

import pytest
import torch
from attrs import evolve

import scalekv_policies
from scalekv_core import CacheGeometry, InputError, KVCache, Policy, Registry, ScaleSchedule, plan_policy
from scalekv_core.contracts.options import options_of
from scalekv_core.plugins.offers import summary_of

SELECTORS = dict(scalekv_policies.scalekv_token_selectors()) | {
    "uniform recent": lambda: scalekv_policies.UniformSelector(pick="recent"),
    "uniform random": lambda: scalekv_policies.UniformSelector(pick="random", seed=3),
    "scalekv max": lambda: scalekv_policies.ScaleKVSelector(pooling="max", kernel=5),
    "scalekv none": lambda: scalekv_policies.ScaleKVSelector(pooling="none"),
    "snapkv avg": lambda: scalekv_policies.SnapSelector(pooling="avg"),
    "snapkv narrow": lambda: scalekv_policies.SnapSelector(window=4, kernel=1, protect=1.0),
}
POLICIES = scalekv_policies.scalekv_policies()
SQUARE = ScaleSchedule.square(1, 2, 3, 5, 8)
WIDE = ScaleSchedule([(1, 1), (1, 2), (2, 5), (4, 9), (5, 11)])
VIDEO = ScaleSchedule([(1, 1), (1, 2, 2), (2, 3, 4), (3, 4, 5)])
CASES = [
    (SQUARE, 4, None),
    (SQUARE, 4, 17),
    (WIDE, 4, 20),
    (WIDE, 3, None),
    (VIDEO, 3, 11),
    (SQUARE, 1, None),
    (SQUARE, 4, 0),
]

every_selector = pytest.mark.parametrize("name", SELECTORS)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{len(case[0])}scales-{case[1]}-{case[2]}")


def keeps(selector, view):
    """Few, some and nearly all of the tokens, as many as the selector can work with."""
    least = selector.least(view.schedule, view.scale)
    return sorted(
        {max(least, keep) for keep in (1, view.tokens // 3, view.tokens // 2, view.tokens - 1)} - {0, view.tokens}
    )


@pytest.fixture
def seen(make_view):
    def make(selector, case, **options):
        schedule, scale, held = case
        return make_view(schedule, scale, held=held, statistics=selector.statistics, **options)

    return make


@every_selector
@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_selectors_answer_unique_ascending_indices_of_exactly_the_wanted_number(name, case, dtype, seen, chosen):
    """Indices are int64, ascending without repetition, within the view, and ``keep`` of them."""
    selector = SELECTORS[name]()
    view = seen(selector, case, dtype=dtype)
    for keep in keeps(selector, view):
        kept = chosen(selector, view, keep)
        assert (2, 3, keep) == kept.shape
        assert torch.int64 == kept.dtype
        assert (kept.diff(dim=-1) > 0).all()
        assert 0 <= int(kept.min()) <= int(kept.max()) < view.tokens


@every_selector
def test_rows_do_not_influence_one_another(name, seen, chosen):
    """Permuting rows permutes the answer, and a row alone gets what it gets in company."""
    selector = SELECTORS[name]()
    view = seen(selector, (WIDE, 4, 20), rows=3)
    kept = chosen(selector, view, 24)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(kept[order], chosen(selector, rows_of(view, order), 24))
    assert torch.equal(kept[1:2], chosen(selector, rows_of(view, torch.tensor([1])), 24))


def rows_of(view, rows):
    tensors = {name: getattr(view, name)[rows] for name in ("q", "k", "v", "positions")}
    return evolve(view, **tensors, statistics={name: x[rows] for name, x in view.statistics.items()})


@every_selector
def test_heads_do_not_influence_one_another(name, seen, chosen):
    """A head that is grouped with others chooses what it chooses alone."""
    selector = SELECTORS[name]()
    view = seen(selector, (SQUARE, 4, 17))
    kept = chosen(selector, view, 30)
    tensors = {name: getattr(view, name)[:, 1:2] for name in ("q", "k", "v", "positions")}
    alone = evolve(view, **tensors, heads=(1,), statistics={n: x[:, 1:2] for n, x in view.statistics.items()})
    assert torch.equal(kept[:, 1:2], chosen(selector, alone, 30))


@every_selector
def test_selectors_change_nothing_and_repeat_themselves(name, seen, chosen):
    """A second call answers the same, and no tensor of the view was written to."""
    selector = SELECTORS[name]()
    view, untouched = (seen(selector, (WIDE, 4, 20)) for _ in range(2))
    assert torch.equal(chosen(selector, view, 24), chosen(selector, view, 24))
    for tensor in ("q", "k", "v", "positions"):
        assert torch.equal(getattr(untouched, tensor), getattr(view, tensor))
    for statistic in selector.statistics:
        assert torch.equal(untouched.statistics[statistic], view.statistics[statistic])


@every_selector
def test_selectors_never_ask_what_a_tensor_holds(name, seen, chosen):
    """They run on tensors without values, so nothing in them can make the host wait for a device."""
    selector = SELECTORS[name]()
    view = seen(selector, (WIDE, 4, 20))
    tensors = {name: getattr(view, name).to("meta") for name in ("q", "k", "v", "positions")}
    nowhere = evolve(view, **tensors, statistics={n: x.to("meta") for n, x in view.statistics.items()})
    assert (2, 3, 24) == chosen(selector, nowhere, 24).shape


@every_selector
def test_selectors_follow_a_quota_per_source_scale(name, seen, chosen):
    """With a quota the answer has the wanted number of every part of the sequence."""
    selector = SELECTORS[name]()
    view = seen(selector, (SQUARE, 3, None))
    view = evolve(view, statistics=dict(selector.observe(view)))
    parts = [(0, 1, 1), (1, 5, 0), (5, 14, 4), (14, 39, 20)]
    kept = selector.select_by_source(view, parts)
    for start, stop, keep in parts:
        assert (((kept >= start) & (kept < stop)).sum(dim=-1) == keep).all()


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "scalekv-reference"])
@pytest.mark.parametrize("schedule", [SQUARE, WIDE, VIDEO], ids=["square", "wide", "video"])
def test_policies_draw_an_image_within_their_budget(name, schedule, make_profile):
    """Through the real cache, with every answer checked: what is held is what was planned and within the budget."""
    policy = POLICIES[name]()
    geometry = CacheGeometry(schedule=schedule, layers=3, heads=2, head_dim=8, rows=2)
    profile = make_profile(geometry) if policy.needs_profile else None
    planned = plan_policy(policy, geometry, budget="100%" if name == "full" else "40%", profile=profile)
    cache = KVCache(planned.plan, policy, check=True)
    generator = torch.Generator().manual_seed(0)
    for scale, tokens in enumerate(schedule.tokens):
        for layer in range(geometry.layers):
            q, k, v = torch.randn(3, 2, 2, tokens, 8, generator=generator)
            cache.attend(layer, q, k, v, softmax_scale=8**-0.5)
            assert planned.plan.held[scale, layer].tolist() == cache.held_tokens(layer)
    assert (planned.plan.slots() <= planned.slots).all()
    assert (name != "full") == cache.dropped


def test_the_shelf_is_a_valid_plugin():
    """All names load, each with a one-line summary for the tables, and policies are called what they are offered as."""
    registry = Registry.of(scalekv_policies)
    for kind, name in registry.offers:
        made = registry.make(kind, name)
        assert summary_of(registry.offer(kind, name).factory)
        assert kind != "policy" or name == made.name
    assert sorted(POLICIES) == registry.names("policy")


@pytest.mark.parametrize("name", POLICIES)
def test_no_two_parts_of_a_policy_share_an_option(name):
    """So that every option can be set by its bare name."""
    policy: Policy = POLICIES[name]()
    options = [option for part in policy.parts.values() for option in options_of(part)]
    assert sorted(set(options)) == sorted(options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("scalekv", {"kernel": "4"}, "kernel' must be odd; got 4"),
        ("scalekv", {"window": "0"}, "window' must be >= 1"),
        ("scalekv", {"pooling": "median"}, "one of avg, max, none"),
        ("scalekv", {"decay": "0.95"}, "below refiner = 0.923"),
        ("scalekv", {"drafters": "1"}, "drafters' must be < 1"),
        ("scalekv", {"top": "0"}, "top' must be > 0"),
        ("h2o", {"recent": "1"}, "recent' must be < 1"),
        ("snapkv", {"protect": "-0.1"}, "protect' must be >= 0"),
        ("uniform", {"pick": "oldest"}, "one of spaced, recent, random"),
        ("pyramidkv", {"beta": "0.5"}, "beta' must be >= 1"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    """The message names the option and what it may be."""
    with pytest.raises(InputError, match=message):
        POLICIES[name]().with_options(options)


PAPERS = {
    "h2o": "2306.14048",
    "snapkv": "2404.14469",
    "streaming": "2309.17453",
    "pyramidkv": "2406.02069",
    "ams-kv": "2511.16047",
    "scalekv": "2505.19602",
    "scalekv-reference": "2505.19602",
}


@pytest.mark.parametrize("name", PAPERS)
def test_a_policy_names_its_paper(name):
    """The title, and where it is."""
    assert re.fullmatch(rf"[A-Z0-9].{{20,}}, arXiv {re.escape(PAPERS[name])}(; github.com/.+)?", POLICIES[name]().paper)
