"""InfinityStar by name: published shapes and settings, loading, random weights, and what is refused before and after."""

from __future__ import annotations

import pytest
import torch

from scalekv_adapters.infinitystar.card import InfinityStarCard
from scalekv_adapters.infinitystar.guidance import Preset
from scalekv_adapters.infinitystar.published import (
    PRESET,
    PublishedInfinityStar,
    preset_of,
    pyramids_of,
)  # fmt: skip
from scalekv_adapters.infinitystar.templates import ASPECTS, INTERACTIVE, RATIOS, SETTINGS
from scalekv_adapters.random_text import RandomText
from scalekv_core import compress, load_model, plan_memory, shared_registry
from scalekv_core.errors import BudgetError, CheckpointError, InputError, ScaleKVError
from scalekv_core.memory.dry_run import dry_run, weight_bytes
from scalekv_core.memory.meter import StorageTracker
from scalekv_core.models.sampling import Sampling
from scalekv_core.pipeline.job import Job
from tests.adapters.infinitystar.published_folder import golden_card, save_published, small_card

IMAGE = "image-480p"


@pytest.fixture(scope="module")
def small() -> PublishedInfinityStar:
    """A model small enough to generate an image of 480p; set to that."""
    model = small_card().random(seed=1)
    model.set_shape(size=IMAGE)
    return model


# shapes and settings


def test_every_aspect_ratio_has_a_name_that_is_close() -> None:
    """Width to height, within 2 % of that of the last map of the table."""
    assert sorted(ASPECTS) == sorted(RATIOS.values())
    for ratio, template in RATIOS.items():
        width, height = map(int, ratio.split(":"))
        rows, columns = map(int, ASPECTS[template].split()[-1].split("x"))
        assert pytest.approx(width / height, rel=0.02) == columns / rows


@pytest.mark.parametrize("size", SETTINGS)
def test_a_card_plans_every_setting(size: str) -> None:
    """Weights of the manifests, one scale for the text and for every map, bytes of the published table."""
    card = InfinityStarCard.of()
    shape = card.shape(size=size)
    assert pyramids_of(None, size).schedule(64) == shape.schedule
    made = small_card().bare(size=size, layers=1)
    assert len(shape.schedule) == len(dry_run(made, 1).closing)
    gib = {  # of two rows without text
        "image-480p": (0.44, 0), "image-720p": (0.99, 0), "480p-5s": (9.17, 0.44), "480p-10s": (17.47, 8.73),
        "720p-5s": (20.76, 0.99), INTERACTIVE: (10.41, 1.67),
    }[size]  # fmt: skip
    two = shape.for_rows(2)
    text = 64 * two.token_bytes
    found = ((two.unmodified_bytes - text) / 2**30, (two.history_bytes - text) / 2**30)
    assert pytest.approx(gib, abs=0.011) == found


def test_weights_are_those_of_the_published_model() -> None:
    """All in bfloat16 but heads and tokenizer."""
    bare = InfinityStarCard.of().bare()
    heads = 4096 * 160 + 160
    assert {
        "transformer": 2 * 8_768_382_112 + 2 * heads, "image decoder": 4 * 184_659_383,
    } == weight_bytes(bare)  # fmt: skip


def test_presets_are_the_published_ones() -> None:
    """Projected guidance of 34, temperatures 1 and 0.4; plain guidance and 0.5 for interactive clips."""
    card = InfinityStarCard.of()
    pyramids = pyramids_of(None, "480p-5s")
    choosing = PRESET.choosing(pyramids, card.sampling)
    image = sum(pyramids.repeats[0])
    assert {1.0} == set(choosing.temperatures[:image])
    assert {0.4} == set(choosing.temperatures[image:])
    assert ({34.0}, 0.05) == (set(choosing.guidance.strengths), choosing.guidance.threshold)
    assert Preset(first=0.5, later=0.5) == preset_of(INTERACTIVE)


def test_guidance_may_differ_by_map_and_temperature_is_a_factor() -> None:
    """Every pass of a map has its strength; 0 is 1, and needs no second row."""
    pyramids = pyramids_of(None, IMAGE)
    strengths = tuple(float(k % 3) for k in range(14))
    choosing = PRESET.choosing(pyramids, Sampling(guidance=strengths, temperature=0.5, top_k=1))
    assert [max(1.0, k % 3) for k in range(14) for _ in range(3)] == list(choosing.guidance.strengths)
    assert {0.5} == set(choosing.temperatures)
    logits = torch.randn(1, 3, 8)
    assert torch.equal(choosing.bits(logits, [torch.Generator()]), choosing.bits(logits, None))
    card = InfinityStarCard.of()
    assert [1, 1, 2] == [card.rows_of(Sampling(guidance=g)) for g in (0.0, 1.0, 34.0)]


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(guidance=0.5), r"guidance of 1 or more \(or 0 to generate without guidance\); got 0\.5"),
        (Sampling(guidance=(2.0, 3.0)), "one guidance for all 28 maps or one for each; got 2"),
        (Sampling(guidance=2.0, guidance_at=(-3,)), "InfinityStar applies guidance on the logits"),
    ],
)
def test_a_sampling_that_does_not_fit_is_refused_before_loading(sampling, message) -> None:
    """By the card, with the shape of the clip."""
    card = InfinityStarCard.of()
    with pytest.raises(InputError, match=message):
        card.check_sampling(sampling, card.shape())


# by name


def test_sizes_that_no_schedule_has_are_refused() -> None:
    """Another number of seconds or frames, pixels or aspect ratio; the message lists those that there are."""
    for size in ("720p-10s", "480p-7s", "81", "1080p-5s"):
        with pytest.raises(InputError, match=rf"there is no size '{size}'; there are image-480p, .*480p-interactive"):
            plan_memory("infinitystar-8b", "full", size=size)
    with pytest.raises(InputError, match=r"there is no aspect ratio '16:10'; there are 16:9, 1:1"):
        plan_memory("infinitystar-8b", "full", aspect="16:10")
    with pytest.raises(ScaleKVError, match=r"no aspect ratio of InfinityStar is called '16:10'"):
        pyramids_of("16:10", None)


def test_a_budget_below_the_text_is_refused() -> None:
    """10 % of the text of an image, where nothing else is kept."""
    with pytest.raises(BudgetError, match="the 64 tokens of the text are always kept"):
        plan_memory("infinitystar-8b", "uniform", "10%", size="image-720p")
    with pytest.raises(BudgetError, match="the 64 tokens of the text are always kept"):
        plan_memory("infinitystar-8b", "snapkv", "40 tokens")


def test_a_folder_gives_back_the_model(tmp_path) -> None:
    """Official files to a model that generates; here the weights of the golden one."""
    card = golden_card()
    save_published(tmp_path)
    model = card.load(weights=tmp_path)
    assert ("480p", "16:9", "480p-5s") == (model.trained_for, model.aspect, model.size)
    assert card.shape().schedule == model.schedule
    assert 4 == len(model.blocks)
    assert model.star.tokenizer in model.parts["decoder"]


def test_weights_of_the_other_size_are_refused(tmp_path) -> None:
    """With what fits them; also where no size is given."""
    save_published(tmp_path, "720p")
    model = golden_card().load(weights=tmp_path)
    message = (
        "the weights of model 'infinitystar-8b' were trained for 720p, 480p-5s needs those for 480p; with these, --size is "
        "one of image-720p, 720p-5s"
    )
    with pytest.raises(InputError, match=message):
        model.set_shape()
    with pytest.raises(InputError, match=message):
        model.generate(["a"], seeds=[0])
    model.set_shape(size="720p-5s")
    assert (45, 80) == model.star.pyramids.whole


def test_the_published_model_wants_its_own_sizes(tmp_path) -> None:
    """A smaller one under its name is refused, and so are no weights at all."""
    save_published(tmp_path)
    with pytest.raises(CheckpointError, match=r"it has depth 4, width 128, .*; you asked for depth 36"):
        load_model("infinitystar-8b", weights=tmp_path)
    with pytest.raises(CheckpointError, match=r"model 'infinitystar-8b' lacks .*nowhere"):
        load_model("infinitystar-8b", weights=tmp_path / "nowhere")
    assert "infinitystar-8b" in shared_registry().names("model")


def test_an_interactive_clip_needs_more_than_a_prompt() -> None:
    """It is planned, and refused before anything is loaded."""
    card = InfinityStarCard.of()
    job = {"sampling": card.sampling, "dtype": torch.bfloat16, "size": INTERACTIVE}
    with pytest.raises(InputError, match=r"480p-interactive continues a clip that a prompt does not give"):
        Job.of("infinitystar-8b", card, [("a", 0)], **job)


# generating


def test_random_weights_generate(small) -> None:
    """One frame of 480 x 848, the same for the same seed, another for another; every pass has its bits."""
    first, again, other = (small.generate(["a red circle"], seeds=[seed]) for seed in (3, 3, 4))
    assert (1, 3, 1, 480, 848) == first.images.shape
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert 3 * 14 == len(first.tokens)


def test_a_small_card_compresses(small) -> None:
    """Nothing of an image is read again but its text, which is all that `full` holds: 11 words here, a beginning and the ending."""
    before = small.generate(["a red circle"], seeds=[3], keep_logits=True)
    with compress(small, "full", check=True) as session:
        during = small.generate(["a red circle"], seeds=[3], keep_logits=True)
    assert all(torch.equal(a, b) for a, b in zip(before.logits, during.logits, strict=True))
    (image,) = session.report().images
    words = len(small.asked("a red circle").split())
    assert words == image.planned.plan.schedule.prefix_tokens
    assert max(image.resident) == words * 2 * 2 * small.star.config.kv_heads * 8 * 4 * 2


def test_prompts_are_asked_as_published() -> None:
    """The length in front, a fixed ending behind."""
    model = small_card().random()
    asked = "<<<t={}s>>>a cat, Close-up on big objects, emphasize scale and detail"
    for size, seconds in (("480p-5s", 5), ("480p-10s", 10), (IMAGE, 5)):
        model.set_shape(size=size)
        assert asked.format(seconds) == model.asked("a cat")


def test_prompts_that_do_not_fit_are_refused(small) -> None:
    """Empty, longer than the text window, of other lengths than the others, a negative prompt longer than the prompt."""
    for prompts, message in (
        (["a", " "], "prompt 2 of 2 is empty"),
        (
            ["a", "two words"],
            "equally many text tokens at once; these have 9 and 10: generate them one after the other",
        ),
        (["word " * 513], "at most 512 words; got 522"),
    ):
        with pytest.raises(InputError, match=message):
            small.generate(prompts, seeds=range(len(prompts)))
    with pytest.raises(InputError, match=r"negative prompt .* not longer than the prompt"):
        small.generate(["a"], seeds=[0], negative_prompt="no " * 20)


def test_a_negative_prompt_changes_the_image(small) -> None:
    """Guidance leads away from it instead of from nothing."""
    plain, other = (small.generate(["a b"], seeds=[0], negative_prompt=text).tokens for text in ("", "blue"))
    assert not all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_a_clip_begins_with_an_image(small) -> None:
    """Its bits are those of the first pyramid; an image of another size or aspect ratio is refused."""
    images = torch.rand(1, 3, 480, 848, generator=torch.Generator().manual_seed(0))
    forced = small.beginning_with(images)
    drawn = small.generate(["a"], seeds=[0], forced=forced)
    assert all(torch.equal(a, b) for a, b in zip(forced, drawn.tokens, strict=True))
    with pytest.raises(
        InputError, match=r"480 x 848 pixels begins with images .*; got \(1, 3, 480, 480\): crop and resize"
    ):
        small.beginning_with(images[..., :480])


def test_a_profile_is_found_by_its_maps(small) -> None:
    """Whatever the length of the text that it was measured with."""
    from scalekv_core import calibrate

    with calibrate(small) as calibration:
        small.generate(["a red circle"], seeds=[0])
    profile = calibration.profile()
    model = PublishedInfinityStar(
        "infinitystar-8b", small.star, RandomText(8, 512), sampling=small.sampling, profiles=[profile]
    )
    assert model.profile is None
    model.set_shape(size=IMAGE)
    assert model.profile is profile
    small.set_shape(size=IMAGE)


def test_a_dry_run_is_that_of_a_real_device() -> None:
    """Its largest maps, where activations are largest: an image of 480p, two rows."""
    card = small_card(width=64, heads=4, kv_heads=2, hidden=128)
    planned = dry_run(card.bare(size=IMAGE, dtype=torch.float32), 1)
    real, peaks = card.bare(size=IMAGE, device="cpu", dtype=torch.float32), []

    class Zeros:
        def attend(self, layer, q, k, v, *, softmax_scale, store=True):
            return torch.zeros_like(q)

    with torch.inference_mode(), StorageTracker() as tracker:
        for _ in real.generate(1, Zeros()):
            peaks.append(tracker.peak)
            tracker.peak = tracker.live
    assert len(peaks) == len(planned.stages[0]) == 15
    assert pytest.approx(planned.stages.max(axis=0)[-3:].tolist(), rel=0.1) == peaks[-3:]
