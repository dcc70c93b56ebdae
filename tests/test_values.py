"""Python takes True for 1 and text for true; wherever a number or a yes or no is wanted, each is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from attrs import frozen

from scalekv_adapters.inputs import check_forced_codes
from scalekv_adapters.sizes import as_sizes
from scalekv_adapters.var.inputs import check_labels
from scalekv_adapters.vqvae import VQVAEConfig
from scalekv_core import (
    BudgetError,
    CacheGeometry,
    CachePlan,
    InputError,
    Policy,
    ProfileError,
    Sampling,
    ScaleKVError,
    ScaleSchedule,
    calibrate,
    compress,
    load_model,
    plan_memory,
    plan_policy,
    shared_registry,
)
from scalekv_core.bench.settings import BenchSettings
from scalekv_core.compare.question import Question
from scalekv_core.contracts.defaults import Everything
from scalekv_core.memory.batch import Batch
from scalekv_core.pipeline.job import check_images, seeds_of
from scalekv_core.planning.assumed import assumed_profile
from scalekv_core.planning.budget import Budget
from scalekv_core.testing import run_checks, toy
from scalekv_policies.streaming import SinksAndRecent

CARD = toy.ToyCard()
GEOMETRY = toy.GEOMETRY
SHAPE: dict[str, Any] = {"schedule": ScaleSchedule.square(1, 2), "layers": 2, "heads": 3, "head_dim": 8}
ASKED: dict[str, Any] = {"models": ("toy",), "policies": ("full",), "prompts": {"toy": ("1",)}}


def begin(block: Any) -> None:
    block.__enter__()


def model() -> Any:
    return CARD.load()


def geometry(**changes: Any) -> CacheGeometry:
    return CacheGeometry(**{**SHAPE, **changes})


NUMBERS: dict[str, Callable[[Any], object]] = {
    "a budget of a session": lambda no: begin(compress(model(), "uniform", no)),
    "an option of a session": lambda no: begin(compress(model(), "snapkv", "50%", window=no)),
    "a fraction of a session": lambda no: begin(compress(model(), "snapkv", "50%", protect=no)),
    "an option by its part": lambda no: Policy.named("snapkv", options={"selector.window": no}),
    "an option in Python": lambda no: Policy(name="mine", allocator=Everything(), selector=SinksAndRecent(sinks=no)),
    "an amount": lambda no: Budget(no, "tokens"),
    "a budget of a plan": lambda no: plan_policy(Policy.named("uniform"), GEOMETRY, budget=no),
    "images of a plan": lambda no: plan_memory("var-tiny", "uniform", images=no),
    "memory of a plan": lambda no: plan_memory("var-tiny", "uniform", memory=no),
    "images of a batch": lambda no: Batch(model="toy", card=CARD, images=no),
    "a study's batch": lambda no: Question(**ASKED, batch=no),
    "a study's seed": lambda no: Question(**ASKED, seeds=(no,)),
    "a study's budget": lambda no: Question(**ASKED, budgets=(no,)),
    "layers": lambda no: geometry(layers=no),
    "heads": lambda no: geometry(heads=no),
    "the width of a head": lambda no: geometry(head_dim=no),
    "rows": lambda no: GEOMETRY.for_rows(no),
    "a group": lambda no: geometry(group=no),
    "a map": lambda no: ScaleSchedule([(no, no), (2, 3)]),
    "a map that is read": lambda no: ScaleSchedule([(1, 1), (1, 1), (2, 2)], reads=[(), (), (no,)]),
    "capacities": lambda no: CachePlan(ScaleSchedule.square(1, 2), np.full((2, 1, 1), no)),
    "top k": lambda no: Sampling(top_k=no),
    "a strength": lambda no: Sampling(guidance=(no,)),
    "a place of guidance": lambda no: Sampling(guidance_at=(no,)),
    "queries that calibrate": lambda no: begin(calibrate(model(), queries=no)),
    "a fraction that calibrates": lambda no: begin(calibrate(model(), fractions=(no,))),
    "repeats": lambda no: BenchSettings(geometry=GEOMETRY, repeats=no),
    "the seed of a measurement": lambda no: BenchSettings(geometry=GEOMETRY, seed=no),
    "a drafter": lambda no: assumed_profile(GEOMETRY, [no]),
    "seeds": lambda no: model().generate(["1"], seeds=[no]),
    "images of a prompt": lambda no: check_images(no, who="model"),
    "examples": lambda no: run_checks(None, "codec", "dense", examples=no),
    "the seed of a check": lambda no: run_checks(None, "codec", "dense", seed=no),
    "seconds of a check": lambda no: run_checks(None, "codec", "dense", timeout=no),
    "the size of a network": lambda no: VQVAEConfig(codes=no),
    "channels of a network": lambda no: VQVAEConfig(base_channels=no),
    "sizes of a network": lambda no: as_sizes([1, no]),
    "a seed": lambda no: seeds_of(no, None, who="model"),
    "labels": lambda no: check_labels([no], 10),
    "forced tokens": lambda no: check_forced_codes([torch.tensor([[no]])], 1, ScaleSchedule.square(1, 2), 10),
}


@pytest.mark.parametrize("place", NUMBERS)
def test_true_is_no_number(place: str) -> None:
    """Nor is False; the refusal is one line."""
    for no in (True, False):
        with pytest.raises(ScaleKVError) as error:
            NUMBERS[place](no)
        assert 1 == len(str(error.value).splitlines())


@pytest.mark.parametrize(
    "place", ["images of a plan", "layers", "a study's batch", "an option in Python", "queries that calibrate"]
)
def test_a_fraction_is_no_whole_number(place: str) -> None:
    """1.5 images would fail later, in torch's words."""
    with pytest.raises(InputError, match=r"whole number.*got 1\.5"):
        NUMBERS[place](1.5)


@pytest.mark.parametrize(
    "provoke",
    [
        lambda: Sampling(greedy="no"),  # type: ignore[arg-type]
        lambda: Batch(model="toy", card=CARD, guidance=3.0),  # type: ignore[arg-type]
        lambda: ScaleSchedule([(1, 1), (2, 2)], prefix=1),  # type: ignore[arg-type]
        lambda: begin(compress(model(), "uniform", check=1)),  # type: ignore[arg-type]
        lambda: load_model("var-tiny", allow_nonfinite="no"),  # type: ignore[arg-type]
    ],
)
def test_only_true_and_false_say_yes_or_no(provoke: Callable[[], object]) -> None:
    """Python takes the text 'no' for yes."""
    with pytest.raises(InputError, match="True or False; got"):
        provoke()


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), "lots", None])
def test_an_amount_is_a_number(amount: Any) -> None:
    """NaN, infinity and text are refused in our words."""
    with pytest.raises(BudgetError, match="a budget is an amount and a unit"):
        Budget(amount, "tokens")


def test_what_is_falsy_was_said() -> None:
    """An empty list of seeds is no first seed, and no profile is another than the model's own."""
    with pytest.raises(InputError, match="model needs at least one seed; got none"):
        seeds_of([], None, who="model")
    with pytest.raises(InputError, match=r"no aspect|aspect ratio ''"):
        Batch(model="infinity-2b", card=shared_registry().make("model", "infinity-2b"), aspect="").geometry  # noqa: B018
    with pytest.raises(ProfileError, match="needs an attention profile"):
        begin(compress(load_model("var-tiny"), "scalekv", profile=[]))


@pytest.mark.parametrize("weights", ["", 3, ["var.pth"]])
def test_weights_are_a_path(weights: Any) -> None:
    """An empty text would be the current directory."""
    with pytest.raises(InputError, match="load_model needs weights to be a path of a file or folder; got"):
        load_model("var-d16", weights=weights)


@frozen
class Loose(SinksAndRecent):
    """Declares more than one kind of value."""

    limit: bool | int = True
    anything: Any = True
    share: float = 1


def test_options_are_checked_by_what_they_declare() -> None:
    """A class that allows True gets it, and a whole number serves as a fraction."""
    assert Policy(name="mine", allocator=Everything(), selector=Loose()).selector == Loose()
