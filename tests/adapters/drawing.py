"""Helpers of the adapters' tests: policies to generate with, and comparisons."""

from __future__ import annotations

import itertools

import pytest
import torch

from scalekv_core import shared_registry

POLICIES = [name for name in shared_registry().names("policy") if name != "scalekv-reference"]
"""All but the one that has tables for two published sizes only."""
OF_EACH_KIND = {("full", "20%"), ("uniform", "50%"), ("h2o", "20%"), ("scalekv", "20%"), ("fold", "20%")}
"""Lossless, by position, by what was observed, by profile, with a merger; the others run in thorough tests."""

every_policy = pytest.mark.parametrize(
    ("name", "budget"),
    [
        pytest.param(*both, marks=[] if both in OF_EACH_KIND else [pytest.mark.thorough])
        for both in itertools.product(POLICIES, ("50%", "20%"))
    ],
)


def policy_and_budget(name, budget):
    """An installed policy, with a budget if it spends one; `heatkv` holds the first three maps, most of what is small here."""
    policy = shared_registry().policy(name)
    budget = "70%" if name == "heatkv" else budget
    return policy, budget if policy.allocator.spends_all else None


def same(first, second):
    """Whether all tensors are bit-equal."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def everything_in(model):
    """The attributes of every module, to compare by identity."""
    return [dict(vars(module)) for module in model.modules()]


def draw_until_block(drawer, error, block):
    """Generates, and raises at the third scale before this block."""
    calls = []

    def stop(module, args, kwargs):
        calls.append(module)
        if len(calls) == 3:
            raise error

    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        drawer.draw()
    finally:
        handle.remove()
