"""Every policy that ships, whatever its method; tests/conformance runs the checks of the kit."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

import scalekv_policies
from scalekv_core import CacheGeometry, InputError, KVCache, Policy, Registry, ScaleSchedule, plan_policy
from scalekv_core.contracts.options import options_of
from scalekv_core.plugins.offers import summary_of
from scalekv_core.testing import parametrize_with_checks

VARIANTS = {
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
VIDEO = ScaleSchedule([(1, 1), (1, 2, 2), (2, 3, 4), (3, 4, 5), (3, 5, 6)])


@pytest.mark.thorough
@parametrize_with_checks(VARIANTS)
def test_selectors_with_other_options_pass_all_checks(check: Callable[[], None]) -> None:
    """Uncommon options work too; tests/conformance checks the usual ones."""
    check()


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "scalekv-reference"])
@pytest.mark.parametrize("schedule", [SQUARE, WIDE, VIDEO], ids=["square", "wide", "video"])
def test_policies_draw_an_image_within_their_budget(name, schedule, make_profile):
    """Through the real cache, every answer checked: held tokens are the planned ones and within the budget."""
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
    """All names load, each with a one-line summary for the tables; a policy's own name is that in the registry."""
    registry = Registry.of(scalekv_policies)
    for kind, name in registry.offers:
        made = registry.make(kind, name)
        assert summary_of(registry.offer(kind, name).factory)
        assert kind != "policy" or name == made.name
    assert sorted(POLICIES) == registry.names("policy")


@pytest.mark.parametrize("name", POLICIES)
def test_no_two_parts_of_a_policy_share_an_option(name):
    """No two parts of a policy share the name of an option, so that each can be set by its bare name."""
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
    """The message names the option and the allowed values."""
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
    """Each docstring has the paper's title and where to find it."""
    assert re.fullmatch(rf"[A-Z0-9].{{20,}}, arXiv {re.escape(PAPERS[name])}(; github.com/.+)?", POLICIES[name]().paper)
