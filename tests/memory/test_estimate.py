"""The memory estimate of a batch is compared with what generating the batch really takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import nn

from scalekv_core import (
    BudgetError,
    CacheGeometry,
    ContractError,
    InputError,
    Registry,
    ScaleSchedule,
    UnknownName,
    compress,
    hookimpl,
    load_model,
    plan_policy,
    shared_registry,
)
from scalekv_core.cache.kv_cache import KVCache
from scalekv_core.memory.attention_dry_run import attending_bytes
from scalekv_core.memory.batch import Batch
from scalekv_core.memory.dry_run import LAYERS, decoding_bytes, dry_run, module_bytes
from scalekv_core.memory.fit import check_fits
from scalekv_core.memory.meter import StorageTracker
from scalekv_core.memory.need import baseline_need
from scalekv_core.memory.plan import MemoryPlan, plan_batch, plan_memory
from scalekv_core.memory.suggestions import MOST_IMAGES, Suggestion, Suggestions
from scalekv_core.models.bare_model import BareModel
from scalekv_core.models.card import ModelCard
from scalekv_core.planning.assumed import assumed_profile
from scalekv_core.planning.budget import Budget
from scalekv_core.testing import toy
from scalekv_policies import scalekv_policies
from tests.plain import Int8

MANIFESTS = Path(__file__).parents[1] / "data" / "manifests"
PUBLISHED = {"var-d16": "var_d16", "var-d20": "var_d20", "var-d24": "var_d24", "var-d30": "var_d30"}
PUBLISHED |= {"var-d36-512": "var_d36_512"}
POLICIES = [name for name in scalekv_policies() if name != "scalekv-reference"]
PARTS = [{}, {"codec": "int8"}, {"codec": "int4"}, {"codec": "fp8"}, {"merger": "fold"}]
GEOMETRY = CacheGeometry(schedule=ScaleSchedule.square(1, 2, 4, 8, 12, 16), layers=1, heads=4, head_dim=64)
NEAR = 0.1
"""Relative tolerance for figures other than the cache's."""


def shipped() -> Registry:
    return shared_registry()


@contextmanager
def measured(drawn: list[int]) -> Iterator[None]:
    """Records the peak bytes of storages that were made inside the block."""
    with StorageTracker() as tracker:
        yield
    drawn.append(tracker.peak)


def beside_weights(plan: MemoryPlan, *, unmodified: bool = False) -> int:
    need = plan.unmodified if unmodified else plan.need
    return need.total - sum(need.weights.values())


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_model("var-tiny")


@pytest.mark.parametrize(
    ("policy", "images", "parts"),
    [
        *((policy, 1, {}) for policy in POLICIES),
        *(("uniform", 2, parts) for parts in PARTS[1:]),
        ("scalekv", 5, {}),
        *(pytest.param(policy, 5, {}, marks=pytest.mark.thorough) for policy in POLICIES if policy != "scalekv"),
        *(pytest.param("scalekv", 2, parts, marks=pytest.mark.thorough) for parts in PARTS[1:]),
    ],
)
def test_a_plan_is_what_a_session_measures(digits: Any, policy: str, images: int, parts: dict[str, str]) -> None:
    """The cache agrees to the byte and the total within a tenth, including the memory that the policy selects with."""
    budget = "30%" if policy != "full" else None
    plan, peak = plan_memory("var-tiny", policy, budget, images=images, **parts), []
    with compress(digits, policy, plan.planned.budget, **parts) as session, measured(peak):
        digits.generate(["3"] * images, seeds=range(images))
    image = session.report().images[-1]

    assert image.planned.plan.capacity.tolist() == plan.planned.plan.capacity.tolist()
    assert max(image.resident) == plan.need.cache
    assert pytest.approx(beside_weights(plan), rel=NEAR) == peak[0]


@pytest.mark.parametrize(("images", "guidance"), [(3, True), (1, False)])
def test_the_unmodified_model_is_planned_as_well(digits: Any, images: int, guidance: bool) -> None:
    """The plan has what the unmodified model holds at the end, its copies and its activations."""
    plan, peak = plan_memory("var-tiny", "full", images=images, guidance=guidance), []
    sampling = digits.sampling if guidance else evolve(digits.sampling, guidance=0.0)
    with measured(peak):
        digits.generate(["3"] * images, seeds=range(images), sampling=sampling)

    assert images * (1 + guidance) == plan.batch.geometry.rows
    assert pytest.approx(beside_weights(plan, unmodified=True), rel=NEAR) == peak[0]
    assert plan.planned.footprint.unmodified == plan.unmodified.cache


class Kept:
    """A cache that stores nothing, on a real device: each map goes through real attention once."""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, softmax_scale: float) -> Any:
        return torch.zeros_like(q)

    def close(self) -> None: ...


def test_activations_are_those_of_a_real_device() -> None:
    """A dry run and a real run take nearly the same bytes, scale by scale; the host adds its own noise."""
    card = shipped().make("model", "var-tiny")
    planned = Batch(model="var-tiny", card=card, images=2).dry_run.stages.max(axis=0)
    real: BareModel = card.bare(device="cpu")
    peaks = []
    with torch.inference_mode(), StorageTracker() as tracker:
        for _ in real.generate(2, Kept()):
            peaks.append(tracker.peak)
            tracker.peak = tracker.live

    assert pytest.approx(planned[-3:].tolist(), rel=NEAR) == peaks[-3:]


def test_decoding_is_that_of_a_real_device() -> None:
    """Decoding starts from the last sum of maps, when nothing is cached any more."""
    card = shipped().make("model", "var-tiny")
    real, peak = card.bare(device="cpu"), []
    with torch.inference_mode(), measured(peak):
        real.decode(2)

    assert pytest.approx(decoding_bytes(card.bare(), 2), rel=NEAR) == peak[0]


def test_a_large_batch_is_decoded_in_parts() -> None:
    """Beyond sixteen images of 256 x 256, only the images themselves add memory."""
    bare = shipped().make("model", "var-d16").bare(layers=1)
    eight, sixteen, many = (decoding_bytes(bare, images) for images in (8, 16, 64))
    image = 3 * 256 * 256 * 4

    assert sixteen > 1.9 * eight
    assert many < sixteen + 2 * 64 * image


TOY_AND_TINY = pytest.mark.parametrize(
    "card",
    [
        pytest.param(lambda: toy.ToyCard(geometry=evolve(toy.GEOMETRY, layers=12)), id="toy"),
        *(
            pytest.param(lambda name=name: shipped().make("model", name), id=name, marks=pytest.mark.thorough)
            for name in ("var-tiny", "infinity-tiny")
        ),
    ],
)


@TOY_AND_TINY
def test_every_image_takes_as_much_as_the_next(card: Callable[[], ModelCard]) -> None:
    """Bytes are linear from two images on, so two dry runs are enough for all batches."""
    bare = card().bare()
    two, three, seven = (dry_run(bare, images) for images in (2, 3, 7))

    assert seven == two.extrapolated(three, 7, first=2)


def test_the_reference_plans_for_the_model_that_it_was_released_for() -> None:
    """No small model runs this policy."""
    assert 0 < plan_memory("infinity-2b", "scalekv-reference").need.attending


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "full"])
def test_a_layer_takes_what_its_cache_takes(policy: str) -> None:
    """While it attends, above what it held before, scale by scale, within a tenth. The output is not part of it: it is counted
    with the model, and is there while tokens are selected, but not yet while kept keys and values grow."""
    geometry = evolve(GEOMETRY, head_dim=64, rows=2)
    profile = assumed_profile(geometry, [0])
    planned = plan_policy(shipped().policy(policy), geometry, budget="30%", profile=profile)
    real, outputs = [], []
    cache, tracker = KVCache(planned.plan, planned.policy), StorageTracker()
    for tokens in geometry.schedule.tokens:
        x = torch.randn(geometry.rows, geometry.heads, tokens, geometry.head_dim)
        held, scratch, tracker.peak = tracker.live, cache.scratch_bytes, tracker.live
        with tracker:
            out = cache.attend(0, x, x, x, softmax_scale=0.1)
        real.append(tracker.peak - held - (cache.scratch_bytes - scratch))
        outputs.append(out.nbytes)
        del out

    sums = [
        4 * geometry.rows * geometry.heads * tokens for tokens in geometry.schedule.tokens
    ]  # that fused attention keeps
    planned_bytes = attending_bytes(planned)[:, 0].tolist()
    for most, least, output, own in zip(real, planned_bytes, outputs, sums, strict=True):
        assert least * (1 - NEAR) - own <= most <= (least + output) * (1 + NEAR) + own


class Asking(toy.Latest):
    """Reads the value of a tensor."""

    def select(self, view: Any, keep: int) -> torch.Tensor:
        assert float(view.k.sum()) < 1e9
        return super().select(view, keep)


def test_a_policy_that_asks_for_values_is_named() -> None:
    """Such a policy makes the device wait, and its memory cannot be known."""
    with pytest.raises(ContractError, match=r"'asking' cannot be planned: a part of it reads the values of tensors"):
        plan_batch(Batch(model="toy", card=toy.ToyCard()), evolve(toy.latest(), name="asking", selector=Asking()))


@TOY_AND_TINY
def test_three_layers_stand_for_all(card: Callable[[], ModelCard]) -> None:
    """A layer's activations are freed before the next one begins, so a few layers are enough."""
    model = card()

    assert LAYERS < model.geometry.layers
    assert dry_run(model.bare(layers=LAYERS), 1) == dry_run(model.bare(), 1)


@pytest.mark.parametrize("model", PUBLISHED)
def test_weights_are_those_of_the_published_model(model: str) -> None:
    """The weights are every parameter and buffer of the manifest; the image decoder counts with its encoder."""
    manifest, vqvae = (json.loads((MANIFESTS / f"{name}.json").read_text()) for name in (PUBLISHED[model], "var_vqvae"))
    weights = Batch(model=model, card=shipped().make("model", model)).weights

    assert 4 * manifest["n_params"] < weights["transformer"] < 4 * manifest["n_params"] + 24 * 2**20
    assert 4 * vqvae["n_params"] <= weights["image decoder"] < 4 * vqvae["n_params"] + 2**20


def test_half_precision_halves_the_transformer() -> None:
    """The image decoder keeps its dtype, and so do the numbers of maps and their mask (0.06 % of var-tiny)."""
    single, half = (plan_memory("var-tiny", "full", dtype=dtype) for dtype in (None, torch.bfloat16))

    assert pytest.approx(single.need.weights["transformer"] / 2, rel=1e-3) == half.need.weights["transformer"]
    assert single.need.weights["image decoder"] == half.need.weights["image decoder"]
    assert single.need.cache == 2 * half.need.cache


def test_weights_are_those_of_a_loaded_model(digits: Any) -> None:
    """The estimate equals the loaded model to the byte."""
    weights = plan_memory("var-tiny", "full").need.weights

    assert {"transformer", "image decoder"} == set(weights)
    assert module_bytes(digits.var) == weights["transformer"]
    assert module_bytes(digits.var.vqvae) == weights["image decoder"]


def test_a_tensor_of_two_names_weighs_once() -> None:
    """Tied weights are counted as one storage."""
    linear = nn.Linear(4, 4, bias=False)
    both = nn.ModuleList([linear, nn.Linear(4, 4, bias=False)])
    both[1].weight = linear.weight

    assert 64 == module_bytes(both)


def test_nothing_is_allocated() -> None:
    """Planning a model of gigabytes allocates only numbers about it."""

    class Real(StorageTracker):
        def _add(self, storage: torch.UntypedStorage) -> None:
            if storage.device.type != "meta":
                super()._add(storage)

    with Real() as tracker:
        plan = plan_memory("var-d30", "uniform")

    assert 2**33 < plan.need.total
    assert 2**20 > tracker.peak


# -- who is planned for -------------------------------------------------------------------------------------------


def test_drafters_are_stated_where_nothing_was_measured() -> None:
    """The plan says that its profile is assumed; a model that ships with its profile is planned with that."""
    assumed, shipped_with = plan_memory("var-d30", "scalekv"), plan_memory("var-tiny", "scalekv")

    assert (0, 16) == assumed.assumed
    assert shipped_with.assumed is None
    assert [0, 16] == assumed.as_dict()["assumed_drafters"]


class Elsewhere(Int8):
    """A codec that stores its codes in the host's memory."""

    leaves_device = True


def test_codes_that_leave_the_device_are_not_counted_there() -> None:
    """Positions are counted on the device; such a codec is suggested before one that is lossy."""
    card = toy.ToyCard(geometry=evolve(toy.GEOMETRY, layers=12))
    plan = toy_plan(toy_plan(0, card=card).need.total - 100, card=card)
    away = plan.replanned(policy=evolve(toy.latest(), codec=Elsewhere()))
    places = max(away.planned.plan.slots().tolist()) * plan.batch.geometry.rows

    class Plugin:
        __name__ = "elsewhere"

        @hookimpl
        def scalekv_cache_codecs(self) -> dict[str, Any]:
            return {"away": Elsewhere}

    assert away.need.cache == 4 * places
    assert away.need.scratch == 2 * plan.need.scratch > 0
    assert away.planned.footprint.most_planned > away.need.cache
    assert "--codec away" in cheapest(plan, registry=Registry.of(toy, Codecs(), Plugin())).change


def test_a_codec_of_fewer_bytes_makes_the_cache_smaller() -> None:
    """The cache shrinks by the bytes that the codec states; nothing else changes."""
    dense = plan_memory("toy", "toy-latest", registry=Registry.of(toy))
    small = plan_memory("toy", "toy-latest", registry=Registry.of(toy), codec=Int8())

    assert small.need.cache < dense.need.cache
    assert small.need.activations == dense.need.activations


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        ({"model": "var-d31"}, UnknownName, "did you mean"),
        (
            {"aspect": "3:4"},
            InputError,
            "model 'var-d16' generates no such images: there is no aspect ratio '3:4'; there is 1:1",
        ),
        ({"size": "1M"}, InputError, "only one size"),
        ({"memory": "much"}, InputError, "memory is written as 24GiB"),
        ({"memory": "50%"}, InputError, "memory is written as 24GiB"),
        ({"budget": "0.01%"}, BudgetError, "the least that works"),
        ({"images": 0}, ValueError, "images"),
    ],
)
def test_what_cannot_be_planned_is_refused(asked: dict[str, Any], kind: type[Exception], said: str) -> None:
    """The refusal is one line."""
    with pytest.raises(kind, match=said) as refused:
        plan_memory(**{"model": "var-d16", "policy": "uniform", **asked})
    assert 1 == len(str(refused.value).splitlines())


def test_a_card_may_say_nothing_of_its_model() -> None:
    """A plugin's model need not be plannable; the message says so, and names the plugin."""

    class Silent(toy.ToyCard):
        bare = toy.ModelCard.bare

    class Plugin:
        __name__ = "silent"

        @hookimpl
        def scalekv_image_models(self) -> dict[str, Any]:
            return {"silent": Silent}

    with pytest.raises(InputError, match=r"Silent cannot make its model without weights"):
        plan_memory("silent", "toy-latest", registry=Registry.of(toy, Plugin()))


# -- what would fit -----------------------------------------------------------------------------------------------


class Codecs:
    """A plugin with a codec that stores less."""

    __name__ = "codecs"

    @hookimpl
    def scalekv_cache_codecs(self) -> dict[str, Any]:
        return {"byte": Int8}


class Reading(toy.ToyCard):
    """The toy model with a text encoder."""

    def text_encoder_bytes(self, dtype: torch.dtype) -> int:
        return 100_000


class Huge(toy.ToyCard):
    """The toy model with a text encoder that is larger than all else."""

    def text_encoder_bytes(self, dtype: torch.dtype) -> int:
        return 10**9


REGISTRY = Registry.of(toy, Codecs())


def toy_plan(memory: int, *, card: toy.ToyCard | None = None, budget: str = "50%", images: int = 6) -> MemoryPlan:
    batch = Batch(model="toy", card=card or toy.ToyCard(), images=images)
    return plan_batch(batch, toy.latest(), budget, memory=memory)


def largest_batch(plan: MemoryPlan) -> int | None:
    return Suggestions(plan, registry=REGISTRY).largest_batch


def largest_budget(plan: MemoryPlan) -> Budget | None:
    return Suggestions(plan, registry=REGISTRY).largest_budget


def cheapest(plan: MemoryPlan, *, registry: Registry) -> Suggestion | None:
    return Suggestions(plan, registry=registry).cheapest


NEEDED = toy_plan(0).need.total


@pytest.mark.parametrize("memory", [NEEDED // 2, NEEDED - 1, NEEDED, NEEDED + 1, 3 * NEEDED])
def test_the_largest_batch_is_the_largest(memory: int) -> None:
    """The suggested batch fits, and one image more does not."""
    plan = toy_plan(memory)
    most = largest_batch(plan)

    assert most is not None
    assert toy_plan(memory, images=most).fits
    assert not toy_plan(memory, images=most + 1).fits
    assert plan.fits == (most >= 6)


@pytest.mark.parametrize("images", [30_000, 3_000_000])
def test_few_dry_runs_are_made_for_a_suggestion(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of dry runs does not grow with the images, and each is as fast as one of few images."""
    made, replanned = list[object](), MemoryPlan.replanned

    def counted(plan: MemoryPlan, **changes: Any) -> MemoryPlan:
        made.append(changes)
        return replanned(plan, **changes)

    monkeypatch.setattr(MemoryPlan, "replanned", counted)
    plan = toy_plan(200 * NEEDED, images=images)

    assert "the largest batch that fits is" in Suggestions(plan, registry=REGISTRY).sentence
    assert 30 > len(made)
    assert not toy_plan(200 * NEEDED, images=1 + (largest_batch(plan) or 0)).fits


def test_no_batch_fits_where_weights_do_not() -> None:
    """The answer is that no batch fits."""
    weights = sum(toy_plan(0).need.weights.values())

    assert largest_batch(toy_plan(weights)) is None
    assert largest_budget(toy_plan(weights)) is None
    assert cheapest(toy_plan(weights), registry=REGISTRY) is None
    assert MOST_IMAGES <= (largest_batch(toy_plan(2**40)) or 0)


def test_the_largest_budget_is_the_largest() -> None:
    """The suggested budget fits, and one a fifth larger does not."""
    plan = toy_plan(NEEDED - 2000)
    most = largest_budget(plan)

    assert most is not None
    assert plan.replanned(budget=most).fits
    assert not plan.replanned(budget=evolve(most, amount=most.amount + most.amount / 5)).fits
    assert "100% of history" == str(largest_budget(toy_plan(2**40)))


def test_a_policy_that_spends_no_budget_has_no_largest() -> None:
    """``full`` holds everything, so no budget is suggested."""
    assert largest_budget(plan_memory("var-tiny", "full", memory=2**40)) is None


def test_the_cheapest_change_comes_first() -> None:
    """Suggestions come in order: no text encoder, fewer bits, fewer tokens, fewer images."""
    reading = toy_plan(NEEDED, card=Reading())
    said = [
        cheapest(plan, registry=REGISTRY)
        for plan in (reading, toy_plan(NEEDED - 100), toy_plan(NEEDED - 100, budget="5 tokens"), toy_plan(NEEDED // 2))
    ]
    none_needed = cheapest(toy_plan(NEEDED), registry=REGISTRY)

    assert none_needed is None
    assert "--no-text-encoder" in said[0].change
    assert said[0].plan.need.text_encoder == reading.need.text_encoder
    assert "--codec byte" in said[1].change
    assert all(suggestion is None or suggestion.plan.fits for suggestion in said)
    assert said[3].change.startswith("generate ")


def test_a_text_encoder_that_is_let_go_is_there_for_a_moment() -> None:
    """The text encoder has to fit while it reads the prompts; the unmodified model keeps it."""
    kept = toy_plan(0, card=Reading())
    let_go = kept.replanned(keep_text_encoder=False)
    weights = sum(kept.need.weights.values())
    larger = plan_batch(Batch(model="toy", card=Huge()), toy.latest(), keep_text_encoder=False)

    assert let_go.need.total == kept.need.total - 100_000
    assert let_go.unmodified.total == kept.unmodified.total
    assert "encoding the prompts" == larger.need.when
    assert larger.need.total == weights + 10**9


def test_changes_are_put_together_where_one_is_not_enough() -> None:
    """The suggestion combines no text encoder with a codec."""
    suggestion = cheapest(toy_plan(NEEDED - 100, card=Reading()), registry=REGISTRY)

    assert "--no-text-encoder), and" in suggestion.change
    assert "--codec byte" in suggestion.change


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    """The refusal is one line; a batch that fits passes, and so does one on a device of unknown memory."""
    check_fits(toy_plan(NEEDED), registry=REGISTRY)
    check_fits(evolve(toy_plan(0), memory=None), registry=REGISTRY)
    with pytest.raises(
        InputError,
        match=r"a batch of 6 images of 'toy' under policy 'toy-latest' at 50% of history needs .* \(while generating scale",
    ) as refused:
        check_fits(toy_plan(NEEDED - 2000), registry=REGISTRY)

    assert 1 == len(str(refused.value).splitlines())
    assert f"the largest budget that fits is {str(largest_budget(toy_plan(NEEDED - 2000)))!r}" in str(refused.value)
    assert "cheapest change: store what is kept with --codec byte" in str(refused.value)


def test_random_weights_come_without_a_text_encoder() -> None:
    """With random weights the plan has no text encoder, since no prompt is read."""
    read, random = (Batch(model="toy", card=Reading(), random_weights=random) for random in (False, True))

    assert (100_000, 0) == (read.text_encoder, random.text_encoder)
    assert read.weights == random.weights


def test_the_whole_cache_is_that_of_scalekvs_own_code() -> None:
    """Keys count in the dtype that attention reads, whatever the published code stores."""
    published = Batch(model="infinity-125m", card=shipped().make("model", "infinity-125m"))

    assert 3 * baseline_need(published).cache == 2 * plan_batch(published, toy.latest()).unmodified.cache


def test_a_profile_is_that_of_the_shape() -> None:
    """Of several profiles that ship, the plan uses the one measured on images of this aspect ratio."""
    for aspect in ("1:1", "3:4"):
        plan = plan_memory("infinity-tiny", "scalekv", aspect=aspect)
        assert plan.assumed is None
        assert plan.batch.geometry.schedule == plan.planned.plan.schedule


def test_a_plan_says_all_in_one_line() -> None:
    """One line has everything that a refusal needs."""
    plan = toy_plan(NEEDED, card=Reading())

    assert "transformer 46.1 KiB, text encoder 97.7 KiB, cache 38.2 KiB, scratch 72.0 KiB" in plan.need.breakdown
    assert 1 == len(plan.need.breakdown.splitlines())
    assert {"planned", "unmodified", "fits", "memory"} < set(json.loads(json.dumps(plan.as_dict())))
