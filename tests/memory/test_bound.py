"""The upper bound of every model that states one exceeds what the dry run finds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve

from scalekv_core import shared_registry
from scalekv_core.cli import main
from scalekv_core.errors import ScaleKVError
from scalekv_core.memory import dry_run
from scalekv_core.memory.attention_dry_run import attending_bytes
from scalekv_core.memory.batch import Batch
from scalekv_core.memory.bound import attending_bound, upper_bound
from scalekv_core.memory.need import baseline_need
from scalekv_core.memory.plan import plan_batch
from scalekv_core.planning.assumed import assumed_profile, default_drafters
from scalekv_core.planning.planner import plan_policy
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.testing import toy

SHIPPED = ("var-tiny", "infinity-tiny")
PARTS: list[dict[str, str]] = [{}, {"codec": "int4"}, {"codec": "host"}, {"merger": "fold"}]

POLICIES = [name for name in shared_registry().names("policy") if name != "scalekv-reference"]
"""Every policy except the one that plans for its released models only."""


def batches() -> list[Any]:
    """Batches of every model at every size; the last size also in its widest and tallest shape."""
    found: list[Any] = []
    for name in shared_registry().names("model"):
        card = shared_registry().make("model", name)
        shapes = [(card.aspects[0], size) for size in card.sizes or (None,)]
        shapes += [(aspect, (card.sizes or (None,))[-1]) for aspect in card.aspects[1:][-2:]]
        marks = () if name in SHIPPED else pytest.mark.thorough
        found += [pytest.param(Batch(model=name, card=card, aspect=a, size=s), marks=marks) for a, s in shapes]
    return found


@pytest.mark.parametrize("batch", batches(), ids=lambda batch: f"{batch.model} {batch.size} {batch.aspect}")
def test_the_bound_is_above_the_dry_run(batch: Batch) -> None:
    """Weights, activations and decoding are compared one by one in float32, the largest dtype."""
    check_bound(evolve(batch, dtype=torch.float32))


@pytest.mark.parametrize(
    ("images", "dtype"),
    [(6, torch.float32), (1, torch.bfloat16), pytest.param(6, torch.bfloat16, marks=pytest.mark.thorough)],
)
def test_the_bound_holds_for_more_images(images: int, dtype: torch.dtype) -> None:
    """The bound holds for more images, and in half precision, in which a family may keep copies."""
    check_bound(Batch(model="var-tiny", card=shared_registry().make("model", "var-tiny"), images=images, dtype=dtype))


def check_bound(batch: Batch) -> None:
    bound, rows = batch.card.size_bound(aspect=batch.aspect, size=batch.size), batch.geometry.rows
    assert bound is not None

    assert bound.weights >= sum(batch.weights.values()) + batch.text_encoder
    assert bound.row * rows >= batch.dry_run.most
    assert bound.row * rows + bound.image * batch.images >= batch.decoding


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=pytest.mark.thorough) for name in ("var-d16", "infinity-2b")]
)
@pytest.mark.parametrize("policy", POLICIES)
def test_no_layer_takes_more_while_it_attends(model: str, policy: str) -> None:
    """The bound of one layer holds under every policy, codec and merger at published sizes."""
    card = shared_registry().make("model", model)
    geometry = card.shape(size="0.25M") if card.sizes else card.geometry
    assert 0 < most_while_attending(policy, geometry.for_rows(2)) <= attending_bound(geometry.for_rows(2))


@pytest.mark.parametrize("policy", POLICIES)
def test_no_layer_of_a_small_model_takes_more_while_it_attends(policy: str) -> None:
    """The bound also holds for a small model, whose scores are large beside its keys."""
    geometry = evolve(shared_registry().make("model", "var-tiny").geometry, layers=2, rows=2)
    assert 0 < most_while_attending(policy, geometry) <= attending_bound(geometry)


def most_while_attending(name: str, geometry: CacheGeometry) -> int:
    """The maximum over all ways to run this policy."""
    most = 0
    for parts in PARTS:
        policy = shared_registry().policy(name, **parts)
        profile = assumed_profile(geometry, default_drafters(geometry.layers)) if policy.needs_profile else None
        try:
            planned = plan_policy(policy, geometry, budget="60%", profile=profile)
        except ScaleKVError:
            planned = plan_policy(policy, geometry, profile=profile)
        most = max(most, int(attending_bytes(planned).max()))
    return most


@pytest.mark.parametrize("model", SHIPPED)
def test_the_whole_bound_is_above_the_plan(model: str) -> None:
    """The bound of the batch exceeds the plan, with the policy's cache and the unmodified one."""
    batch = Batch(model=model, card=shared_registry().make("model", model), dtype=torch.float32)
    plan = plan_batch(batch, shared_registry().policy("uniform"), "30%")
    bound, unmodified = upper_bound(batch, plan.planned.footprint), upper_bound(batch)

    assert bound is not None
    assert unmodified is not None
    assert plan.need.total <= bound <= 100 * plan.need.total
    assert baseline_need(batch).total <= unmodified


def test_a_card_need_not_give_a_bound() -> None:
    """Without a bound the dry run decides."""
    assert upper_bound(Batch(model="toy", card=toy.ToyCard())) is None


def test_what_clearly_fits_is_generated_without_a_dry_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the bound fits, no part of a model is built on the meta device."""
    monkeypatch.setattr("scalekv_core.memory.free.memory_for_process", lambda device: 2**40)
    monkeypatch.setattr(dry_run, "on_meta", lambda *args, **how: pytest.fail("there was a dry run"))
    card = shared_registry().make("model", "var-tiny")
    monkeypatch.setattr(type(card), "bare", lambda card, **how: pytest.fail("a bare model was built"))

    with pytest.raises(SystemExit) as over:
        main(["generate", "3", "--policy", "uniform", "--out", str(tmp_path / "out")])
    assert 0 == over.value.code
