"""Policy: a value of five checked parts, whose name shows exchanged ones."""

from __future__ import annotations

from typing import Any

import pytest

from scalekv_core import Policy, shared_registry
from scalekv_core.contracts.defaults import Dense, Drop, OneRole
from scalekv_core.contracts.policy import PARTS
from scalekv_core.testing import toy


def test_a_policy_is_a_value() -> None:
    """Equal parts make equal policies, and the neutral parts need not be named."""
    policy = Policy(name="p", allocator=toy.Even(), selector=toy.Latest())

    assert policy == Policy(name="p", allocator=toy.Even(), selector=toy.Latest())
    assert hash(policy) == hash(Policy(name="p", allocator=toy.Even(), selector=toy.Latest()))
    assert (OneRole(), Drop(), Dense(), "10%") == (policy.classifier, policy.merger, policy.codec, policy.budget)
    assert not policy.needs_profile
    assert list(PARTS) == list(policy.parts)
    with pytest.raises(AttributeError):
        policy.name = "q"  # type: ignore[misc]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [None, "toy-latest", object(), toy.Latest])
def test_a_part_is_of_its_kind(part: str, value: Any) -> None:
    """A name, a class or something else is not taken for a part."""
    parts: dict[str, Any] = {"allocator": toy.Even(), "selector": toy.Latest(), part: value}

    with pytest.raises(TypeError, match=part):
        Policy(name="p", **parts)


def test_exchanged_parts_show_in_the_name() -> None:
    """Two policies with different parts have different names."""
    policy = toy.latest()
    changed = policy.with_parts({"selector": "other"}, {"selector": toy.Latest()})

    assert "toy-latest selector=other" == changed.name
    assert policy is policy.with_parts({}, {})
    assert policy is policy.with_options({})


def test_a_policy_by_name_is_what_the_registry_makes_of_it() -> None:
    """Policy.named sets parts, options and budget; without changes it is the registered policy."""
    named = Policy.named("uniform", selector="snapkv", window=9, budget="20%")

    assert shared_registry().policy("uniform", selector="snapkv", options={"window": 9}, budget="20%") == named
    assert "20%" == named.budget
    assert shared_registry().policy("h2o") == Policy.named("h2o")


def test_a_budget_is_a_text() -> None:
    """A number as budget is refused, since it could be a share or a count."""
    with pytest.raises(TypeError, match="budget"):
        Policy(name="p", allocator=toy.Even(), selector=toy.Latest(), budget=0.1)  # type: ignore[arg-type]
