"""Infinity by name: cards, text prompts, canvases, random weights, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from attrs import evolve

import scalekv_adapters
import scalekv_policies
from scalekv_adapters.infinity.card import PublishedInfinityCard
from scalekv_adapters.infinity.config import CANVASES, PUBLISHED, InfinityConfig
from scalekv_adapters.infinity.model import InfinityImageModel
from scalekv_adapters.infinity.templates import ASPECTS, Canvas
from scalekv_adapters.infinity.vae import BSQVAEConfig
from scalekv_adapters.random_text import RandomText
from scalekv_core import InputError, Registry, Sampling, calibrate, compress, hookimpl, plan_policy, shared_registry
from scalekv_core.cli import main
from scalekv_core.plugins import registry as registries

PROMPTS = ["a red circle", "three small blue squares in a row"]


def small_card(name="infinity-small", **changes):
    """A card of an Infinity of two layers, on the smallest canvas."""
    config = InfinityConfig(depth=2, width=32, heads=2, bits=4, mlp_ratio=8, text_channels=16, text_maxlen=12)
    card = PublishedInfinityCard(
        name=name,
        summary="small",
        weights="nowhere",
        geometry=config.geometry(Canvas("1:1", "0.06M")),
        config=config,
        vae=BSQVAEConfig(bits=4, base_channels=32, multipliers=(1,), blocks=1),
        canvas=Canvas("1:1", "0.06M"),
        text_encoder=0,
        sampling=Sampling(guidance=3.0, top_p=0.97),
    )
    return evolve(card, **changes)


@pytest.fixture
def model():
    return small_card().random()


# Cards


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_cards_tell_the_published_shape(name):
    """Cards state layers, heads, width and the maps of every aspect ratio and size without any file."""
    card = shared_registry().make("model", name)
    config = InfinityConfig.published(name)
    assert config.geometry(CANVASES[name], torch.bfloat16) == card.geometry == card.shape()
    assert (config.depth, config.heads, config.head_dim) == (
        card.geometry.layers,
        card.geometry.heads,
        card.geometry.head_dim,
    )
    assert Canvas("3:4", "0.25M").schedule == card.shape(aspect="3:4", size="0.25M").schedule
    assert Canvas("3:4", CANVASES[name].pixels).schedule == card.shape(aspect="3:4").schedule
    assert card.needs_weights
    assert set(ASPECTS) == set(card.aspects)


def test_a_loaded_model_is_compared_with_what_the_published_code_holds():
    """Unmodified keys count as float32 although attention reads bfloat16, in the report as in the plan."""
    model = small_card().random(dtype=torch.bfloat16)
    loaded = shared_registry().adapter_for(model.module)[1].geometry(model.module)
    assert loaded.unmodified_key_dtype == shared_registry().make("model", "infinity-8b").geometry.unmodified_key_dtype
    assert 2 * loaded.unmodified_token_bytes == 3 * loaded.token_bytes


@pytest.mark.parametrize("name", ["infinity-2b", "infinity-8b"])
def test_the_released_tables_are_for_these_models(name):
    """Policy `scalekv-reference` plans at its own 650 tokens for these cards."""
    planned = plan_policy(shared_registry().policy("scalekv-reference"), shared_registry().make("model", name).geometry)
    assert (650 * planned.geometry.slots_per_token >= planned.plan.slots()).all()
    assert planned.plan.drops


def test_a_card_names_the_nearest_of_what_it_does_not_draw():
    """An unknown aspect ratio or size is refused with the nearest ones."""
    card = shared_registry().make("model", "infinity-2b")
    with pytest.raises(InputError, match=r"no aspect ratio '9:16' \(width:height\); the nearest are 4:7, 1:2"):
        card.shape(aspect="9:16")
    with pytest.raises(InputError, match=r"no image size of '4M' pixels; there are 0.06M, 0.25M, 0.60M, 1M"):
        card.shape(size="4M")


# Drawing


def test_prompts_of_different_lengths_are_drawn_together(model):
    """Prompts of different lengths generate in one batch, each with its own seed."""
    batch = model.generate(PROMPTS, seeds=[3, 4])
    assert (2, 3, 16, 16) == tuple(batch.images.shape)
    for image in range(2):
        alone = model.generate(PROMPTS[image : image + 1], seeds=[3 + image])
        for both, one in zip(batch.tokens, alone.tokens, strict=True):
            assert torch.equal(both[image], one[0])


def test_the_sampling_is_the_models_own_unless_another_is_given(model):
    """Guidance, filters and temperature come from the sampling; greedy sampling ignores seeds."""
    own, same = model.generate(PROMPTS, seeds=[0, 1]), model.generate(PROMPTS, seeds=[0, 1], sampling=model.sampling)
    assert torch.equal(own.images, same.images)
    greedy = evolve(model.sampling, greedy=True)
    first, second = (model.generate(PROMPTS, seeds=seeds, sampling=greedy) for seeds in ([0, 1], [8, 9]))
    assert torch.equal(first.images, second.images)


def test_places_of_guidance_are_the_samplings(model):
    """Guidance after a block gives other logits than on the logits; an unknown place is refused."""
    here, there = (evolve(model.sampling, guidance_at=places) for places in ((0,), (-1,)))
    logits = [model.generate(PROMPTS, seeds=[0, 1], sampling=how, keep_logits=True).logits[0] for how in (here, there)]
    assert not torch.equal(*logits)
    with pytest.raises(InputError, match=r"after a block \(-1 to -\d+\); got -99"):
        model.generate(PROMPTS, seeds=[0, 1], sampling=evolve(here, guidance_at=(-99,)))


@pytest.mark.parametrize(("guidance", "rows"), [(0, 1), (1, 1), (3, 2), ((1,) * 7, 1), ((1,) * 6 + (2,), 2)])
def test_rows_are_those_that_attention_sees(model, guidance, rows):
    """Guidance of 1 or 0 generates without unconditioned rows."""
    sampling = Sampling(guidance=guidance)
    with compress(model, "full") as session:
        model.generate(PROMPTS[:1], seeds=[0], sampling=sampling)
    assert (
        rows
        == PublishedInfinityCard.of("infinity-2b").rows_of(sampling)
        == session.report().images[0].planned.geometry.rows
    )


def test_a_canvas_is_chosen(model):
    """Aspect ratio and size change schedule, geometry and images; the one that is not given stays the same."""
    model.set_shape(aspect="3:4")
    assert Canvas("3:4", "0.06M").schedule == model.schedule
    assert (1, 3, 20, 15) == tuple(model.generate(["a"], seeds=[0]).images.shape)
    model.set_shape(size="0.25M")
    assert Canvas("3:4", "0.25M").schedule == model.schedule
    with pytest.raises(InputError, match="the nearest are 4:7, 1:2"):
        model.set_shape(aspect="9:16")
    assert Canvas("3:4", "0.25M").schedule == model.schedule


def test_a_profile_is_that_of_the_canvas(model):
    """Each canvas has a profile of its own, or none."""
    profiles = []
    for aspect in ("1:1", "3:4"):
        model.set_shape(aspect=aspect)
        with calibrate(model) as calibration:
            model.generate(["a"], seeds=[0])
        profiles.append(calibration.profile())
    several = InfinityImageModel("several", model.infinity, model.encoder, sampling=model.sampling, profiles=profiles)
    for aspect, profile in (("1:1", profiles[0]), ("3:4", profiles[1]), ("2:1", None)):
        several.set_shape(aspect=aspect)
        assert profile is several.profile


def test_prompts_are_encoded_once(model):
    """The unmodified and the compressed cache use the same features; T5 runs once."""
    calls = []

    class Counting:
        def encode(self, prompts):
            calls.append(list(prompts))
            return RandomText(16, 12).encode(prompts)

    model.encoder = Counting()
    model.generate(["a", "b", "a"], seeds=[0, 1, 2])
    model.generate(["b", "a"], seeds=[0, 1])
    model.generate(["b", "c"], seeds=[0, 1])
    assert [["a", "b"], ["c"]] == calls


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([""], "'infinity-small' generates from a text, and prompt 1 of 1 is empty"),
        (["a", "  "], "prompt 2 of 2 is empty"),
        (["word " * 13], "with random weights a prompt has at most 12 words; got 13"),
    ],
)
def test_prompts_that_cannot_be_drawn_are_refused(model, prompts, message):
    """Empty prompts and prompts that are too long are refused."""
    with pytest.raises(InputError, match=message):
        model.generate(prompts, seeds=range(len(prompts)))


def test_seeds_must_be_as_many_as_prompts(model):
    """A wrong number of seeds is refused."""
    with pytest.raises(InputError, match=r"'infinity-small' needs one seed per image: 2 images, got 1 seeds"):
        model.generate(PROMPTS, seeds=[0])


# Random weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_are_the_same_every_time(dtype):
    """Random weights are seeded, have the requested dtype, and respond to prompts."""
    first, second = (small_card().random(dtype=dtype) for _ in range(2))
    state = first.module.state_dict()
    assert all(torch.equal(value, second.module.state_dict()[name]) for name, value in state.items())
    assert dtype == first.infinity.dtype
    assert torch.float32 == first.infinity.head.weight.dtype
    drawn = first.generate(PROMPTS, seeds=[0, 0], keep_logits=True)
    assert bool(drawn.images.isfinite().all())
    assert not torch.equal(drawn.logits[0][0], drawn.logits[0][1])
    other = small_card().random(seed=1, dtype=dtype).module.state_dict()
    assert not torch.equal(state["head.weight"], other["head.weight"])


# The command line


class Plugin:
    """A plugin with small models."""

    __name__ = "tests-infinity"

    @hookimpl
    def scalekv_image_models(self):
        return {"infinity-small": small_card}


@pytest.fixture
def scalekv(monkeypatch, tmp_path, capsys):
    """Runs a command in an empty directory: (exit code, output, errors)."""
    made = Registry.of(scalekv_policies, scalekv_adapters, Plugin())
    monkeypatch.setattr(registries, "shared_registry", lambda: made)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


DRAW = ("--model", "infinity-small", "--random-weights", "--policy", "snapkv", "--budget", "30%")


@pytest.mark.thorough
def test_generate_draws_several_prompts_with_their_own_seeds(scalekv):
    """Several prompts under a policy on a canvas; the record has everything to generate them again."""
    code, out, _ = scalekv("generate", *PROMPTS, *DRAW, "--seed", "1", "--seed", "2", "--aspect", "3:4")
    record = json.loads(Path("scalekv-out/record.json").read_text())
    assert 0 == code, out
    assert [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2 == record["prompts"]
    assert [1, 2, 1, 2] == record["seeds"]
    assert str(Canvas("3:4", "0.06M").schedule) == record["model"]["maps"]
    assert "random" == record["model"]["weights"]
    memory = record["policies"][0]["memory"]
    assert memory["planned_bytes"] == memory["resident_bytes"] < memory["unmodified_bytes"]
    assert "--aspect 3:4" in record["command"]


@pytest.mark.thorough
def test_generate_pairs_prompts_with_seeds(scalekv):
    """--paired gives each prompt its own seed and no other."""
    code, _, _ = scalekv("generate", *PROMPTS, *DRAW, "--seed", "5", "--seed", "8", "--paired", "--no-baseline")
    record = json.loads(Path("scalekv-out/record.json").read_text())
    assert (0, PROMPTS, [5, 8]) == (code, record["prompts"], record["seeds"])


def test_generate_takes_guidance_by_scale(scalekv):
    """--guidance takes one strength per scale."""
    code, _, _ = scalekv("generate", *PROMPTS, *DRAW, "--guidance", "1,1,1,1,3,3,3", "--no-baseline")
    record = json.loads(Path("scalekv-out/record.json").read_text())
    assert 0 == code
    assert [1, 1, 1, 1, 3, 3, 3] == record["sampling"]["guidance"]


def test_generate_takes_places_of_guidance(scalekv):
    """--guidance-at takes the logits and blocks, and the record lists them."""
    code, _, _ = scalekv("generate", *PROMPTS, *DRAW, "--guidance-at", "0,-1", "--no-baseline")
    assert 0 == code
    assert [0, -1] == json.loads(Path("scalekv-out/record.json").read_text())["sampling"]["guidance_at"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--aspect", "9:16"),
            "model 'infinity-small' generates no such images: there is no aspect ratio '9:16' (width:height); the nearest are 4:7, 1:2",
        ),
        (
            ("--size", "8M"),
            "model 'infinity-small' generates no such images: there is no image size of '8M' pixels; there are 0.06M, 0.25M, 0.60M, 1M",
        ),
        (("--guidance", "1,3"), "Infinity needs one guidance for all 7 scales or one per scale; got 2"),
        (("--guidance", "much"), "--guidance needs a number, or one per scale with commas between; got 'much'"),
        (("--guidance", "0.5"), "Infinity needs guidance of 1 or more (or 0 to generate without guidance); got 0.5"),
        (("--seed", "5", "--paired"), "--paired needs one --seed for each of 2 prompts, and no --images; got 1 seeds"),
        (("--weights", "here"), "--random-weights replaces --weights; give one of them (got here)"),
    ],
)
def test_generate_refuses_in_one_line(scalekv, arguments, message):
    """A wrong option ends in one line with exit code 2, and nothing is written."""
    code, _, err = scalekv("generate", *PROMPTS, *DRAW, *arguments)
    assert (2, f"scalekv: {message}") == (code, err.strip())
    assert [] == list(Path().iterdir())


def test_generate_refuses_an_empty_prompt(scalekv):
    """An empty prompt is refused."""
    code, _, err = scalekv("generate", "a", " ", *DRAW)
    assert 2 == code
    assert "prompt 2 of 2 is empty" in err


def test_without_weights_and_network_there_are_two_ways(scalekv, monkeypatch):
    """The error names both ways, a folder with the published files and random weights, whatever memory is free."""
    monkeypatch.setattr("scalekv_core.memory.free.memory_for_process", lambda device: None)
    code, _, err = scalekv("generate", "a", "--model", "infinity-2b", "--policy", "uniform")
    assert 2 == code
    assert "FoundationVision/Infinity cannot be fetched from the hub" in err
    assert "or give --weights PATH (a folder with infinity_2b_reg.pth, infinity_vae_d32reg.pth" in err
    assert "or --random-weights to measure memory and time" in err
    assert 1 == len(err.splitlines())


def test_a_model_of_one_shape_says_so(scalekv):
    """VAR refuses --aspect and --size."""
    code, _, err = scalekv("generate", "3", "--model", "var-tiny", "--aspect", "3:4")
    assert (2, True) == (code, "aspect ratio" in err)
