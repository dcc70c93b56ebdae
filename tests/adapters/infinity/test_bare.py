"""Infinity without weights: the counts of a plan equal those of the published models and of a real device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from attrs import evolve

from scalekv_adapters.infinity.bare import BareInfinity
from scalekv_adapters.infinity.card import PublishedInfinityCard
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.vae import BSQVAEConfig
from scalekv_core import compress, load_model, shared_registry
from scalekv_core.errors import InputError
from scalekv_core.memory.batch import Batch
from scalekv_core.memory.cache_bytes import CacheBytes
from scalekv_core.memory.dry_run import LAYERS, decoding_bytes, dry_run, module_bytes, weight_bytes
from scalekv_core.memory.meter import StorageTracker
from scalekv_core.memory.plan import plan_memory
from scalekv_core.memory.suggestions import Suggestions
from scalekv_core.models.sampling import Sampling
from scalekv_core.planning.planner import plan_policy

MANIFESTS = Path(__file__).parents[2] / "data" / "manifests"
MANIFESTS_OF = {
    "infinity-125m": ("infinity_layer12_125m", "infinity_vae_d16"),
    "infinity-2b": ("infinity_2b", "infinity_vae_d32"),
    "infinity-8b": ("infinity_8b", "infinity_vae_d56_f8_14_patchify"),
}
SMALL = InfinityConfig(depth=4, width=64, heads=2, bits=16, text_channels=128, text_maxlen=8)
SMALL_VAE = BSQVAEConfig(bits=16, base_channels=32, multipliers=(1, 1), blocks=1)
BUDGETS = (("full", None), ("uniform", "650 tokens"))
HOW = Sampling(guidance=3.0, top_p=0.97)


def bare(config: InfinityConfig = SMALL, *, layers: int | None = None, device: str = "meta") -> BareInfinity:
    canvas = Canvas("3:4", "0.06M")
    return BareInfinity.of(config, SMALL_VAE, canvas, HOW, layers=layers, device=device)


@pytest.mark.parametrize("model", MANIFESTS_OF)
def test_weights_are_those_of_the_published_model(model: str) -> None:
    """The plan has every parameter of the manifests, in float32 or in the half precision of the published runs."""
    transformer, decoder = MANIFESTS_OF[model]
    card = PublishedInfinityCard.of(model)
    manifests = [json.loads((MANIFESTS / f"{name}.json").read_text()) for name in (transformer, decoder)]
    single, half = (weight_bytes(card.bare(dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))

    for part, manifest in zip(("transformer", "image decoder"), manifests, strict=True):
        assert pytest.approx(4 * manifest["n_params"], rel=1e-3) == single[part]
    assert single["image decoder"] == half["image decoder"]
    assert 0.5 < half["transformer"] / single["transformer"] < 0.6


def test_activations_are_those_of_a_real_device() -> None:
    """Planned activations of the last scales equal those measured on a real device."""
    planned = dry_run(bare(), 2).stages.max(axis=0)
    real, peaks = bare(device="cpu"), []

    class Kept:
        def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, softmax_scale: float):
            return torch.zeros_like(q)

        def close(self) -> None: ...

    with torch.inference_mode(), StorageTracker() as tracker:
        for _ in real.generate(2, Kept()):
            peaks.append(tracker.peak)
            tracker.peak = tracker.live

    assert pytest.approx(planned[-3:].tolist(), rel=0.1) == peaks[-3:]


def test_decoding_is_that_of_a_real_device() -> None:
    """Planned decoding, part by part, equals that measured on a real device."""
    real = bare(device="cpu")
    with torch.inference_mode(), StorageTracker() as tracker:
        real.decode(3)

    assert pytest.approx(decoding_bytes(bare(), 3), rel=0.1) == tracker.peak


@pytest.mark.thorough
def test_every_image_and_every_layer_takes_as_much_as_the_next() -> None:
    """Each further image and layer adds the same, so a dry run of two images and three layers is enough."""
    one, two, five = (dry_run(bare(), images) for images in (1, 2, 5))

    assert five == one.extrapolated(two, 5)
    assert dry_run(bare(layers=LAYERS), 1) == dry_run(bare(evolve(SMALL, depth=6)), 1)


@pytest.mark.thorough
def test_without_guidance_there_are_half_the_rows() -> None:
    """Without guidance there are half the rows, and half of what depends on them."""
    guided, plain = (dry_run(bare(), 1, guidance=guidance) for guidance in (True, False))

    assert max(plain.between) < 0.6 * max(guided.between)


def test_the_second_projection_is_that_of_attention() -> None:
    """The bench's stand-in for code that projects twice uses the projection of attention."""
    model = bare()

    assert [block.sa for block in model.infinity.blocks] == [module for module, _ in model.projections]
    assert {(3 * 64, 64)} == {tuple(weight.shape) for _, weight in model.projections}


# -- plans of the published models ---------------------------------------------------------------------------------


def mib(count: int) -> int:
    return round(count / 2**20)


def test_the_8b_plan_of_eight_images_has_the_numbers_of_the_papers() -> None:
    """138,088 MiB unmodified, 56,219 without loss, 5,688 and the positions at 650 tokens."""
    registry = shared_registry()
    geometry = Batch(model="infinity-8b", card=registry.make("model", "infinity-8b"), images=8).geometry
    full, uniform = (plan_policy(registry.policy(name), geometry, budget=budget) for name, budget in BUDGETS)

    assert 138_088 == mib(CacheBytes.of_unmodified(geometry).most)
    assert 56_219 == mib(CacheBytes.of_plan(full).most)
    assert 650 * 40 * 28 * 16 * (512 + 4) == CacheBytes.of_plan(uniform).most
    assert 10_521 == geometry.schedule.total


@pytest.mark.thorough
def test_other_canvases_are_planned_and_unknown_ones_refused() -> None:
    """A quarter of the size takes a part of the tokens; for an unknown aspect ratio the error names the nearest."""
    small = plan_memory("infinity-2b", "uniform", size="0.25M", aspect="3:4")
    large = plan_memory("infinity-2b", "uniform", aspect="3:4")

    assert small.unmodified.cache < large.unmodified.cache / 3
    with pytest.raises(InputError, match="4:7"):
        plan_memory("infinity-2b", "uniform", aspect="9:16")
    with pytest.raises(InputError, match=r"0\.06M"):
        plan_memory("infinity-2b", "uniform", size="2M")


@pytest.mark.thorough
def test_suggestions_make_it_fit() -> None:
    """Suggestions remove the text encoder first, then lower the budget, until the batch fits."""
    full = plan_memory("infinity-8b", "full", images=8, memory="80GiB")
    suggestion = Suggestions(full).cheapest

    assert not full.fits
    assert suggestion is not None
    assert suggestion.plan.need.total <= 80 * 2**30
    assert full.need.text_encoder == 2 * 1_223_527_424


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("aspect", "policy"), [("1:1", "uniform"), ("3:4", "scalekv"), ("1:1", "h2o"), ("1:1", "fold")]
)
def test_the_plan_of_infinity_tiny_is_what_a_session_measures(aspect: str, policy: str) -> None:
    """Planned cache and weights are exact to the byte, and the total is within a tenth."""
    model, prompts = load_model("infinity-tiny"), ["a red circle", "a blue square"]
    model.set_shape(aspect=aspect)
    plan = plan_memory("infinity-tiny", policy, "30%", images=2, aspect=aspect)
    with compress(model, policy, "30%") as session, StorageTracker() as tracker:
        model.generate(prompts, seeds=[0, 1])
    beside_weights = plan.need.total - sum(plan.need.weights.values()) - plan.need.text_encoder

    assert max(session.report().images[-1].resident) == plan.need.cache
    assert module_bytes(model.infinity) == plan.need.weights["transformer"]
    assert pytest.approx(beside_weights, rel=0.1) == tracker.peak
