"""Our Infinity and the official object under a session: bit-identical where nothing is evicted, and restored
afterwards.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from scalekv_adapters.infinity.adapter import InfinityAdapter
from scalekv_adapters.infinity.config import CANVASES, PUBLISHED, InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.official import OfficialInfinityAdapter
from scalekv_adapters.infinity.templates import Canvas
from scalekv_core import BudgetError, ProfileError, calibrate, compress, shared_registry
from tests.adapters.drawing import same
from tests.adapters.promises import AdapterPromises, Drawer

LENS = (5, 9)
SQUARE = Canvas("1:1", "0.06M")


class DrawsTexts(Drawer):
    """An Infinity, of either structure."""

    scales = 7
    unguided, guided = 1.0, 3.0

    def __init__(self, model, text):
        self.model, self.text = model, text

    @property
    def second_block(self):
        return [block for chunk in self.model.block_chunks for block in chunk.module][1]


class Ours(DrawsTexts):
    """Our Infinity, which generates by its own method."""

    def draw(self, *, guidance=DrawsTexts.guided, canvas=None):
        drawn = self.model.generate(self.text, seeds=None, guidance=guidance, canvas=canvas, keep_logits=True)
        image = (drawn.images.permute(0, 2, 3, 1) * 255).to(torch.uint8).flip(3)
        return [image, *drawn.tokens, *drawn.logits]


class Official(DrawsTexts):
    """An object with the official structure, which generates by the official method."""

    def draw(self, *, guidance=DrawsTexts.guided, canvas=None):
        (ours,) = self.model.ours
        schedule = [(1, h, w) for h, w in (canvas or ours.canvas).maps]
        _, _, image = self.model.autoregressive_infer_cfg(
            vae=ours.vae,
            scale_schedule=schedule,
            label_B_or_BLT=(self.text.features, list(self.text.lens), None, max(self.text.lens)),
            B=len(self.text),
            cfg_list=[guidance] * len(schedule),
        )
        logits, bits = zip(*self.model.drawn, strict=True)
        return [image, *bits, *logits]


@pytest.fixture
def variant(size):
    return size


@pytest.fixture
def ours(make_infinity, plain_text):
    return lambda kind="small": Ours(make_infinity(kind), plain_text(*LENS))


@pytest.fixture
def official(make_official, plain_text):
    return lambda kind="small": Official(make_official(kind), plain_text(*LENS))


@pytest.fixture
def official_flash(make_official, plain_text):
    return lambda kind="small": Official(make_official(kind, flash=True), plain_text(*LENS))


@pytest.fixture(params=["ours", "official", "official_flash"])
def make(request):
    """Makes something to generate with, of every structure and layout."""
    return request.getfixturevalue(request.param)


def first_attention(model):
    """The self-attention of the first block."""
    return model.block_chunks[0].module[0].sa


@pytest.fixture(
    params=[
        lambda model: setattr(first_attention(model), "k_norm", nn.LayerNorm(32)),
        lambda model: delattr(first_attention(model), "q_bias"),
        lambda model: delattr(first_attention(model), "cached_k"),
        lambda model: delattr(model.block_chunks[0].module[0], "sa"),
        lambda model: setattr(first_attention(model), "forward", lambda x, attn_bias: x),
        lambda model: setattr(model, "block_chunks", nn.ModuleList()),
        lambda model: delattr(model, "rope2d_freqs_grid"),
    ],
    ids=["more weights", "fewer weights", "no cache", "no attention", "another call", "no blocks", "no rotations"],
)
def change(request):
    """What makes of the official structure a similar one."""
    return request.param


@pytest.fixture(scope="module")
def profile(make_infinity, plain_text):
    """What calibration measures on the small model."""
    drawer = Ours(make_infinity("small"), plain_text(*LENS))
    with calibrate(drawer.model) as calibration:
        drawer.draw()
    return calibration.profile()


class TestAdapters(AdapterPromises):
    """What every family promises."""

    adapters: ClassVar = {"infinity": InfinityAdapter, "infinity-official": OfficialInfinityAdapter}
    shape: ClassVar = {"schedule": SQUARE.schedule, "layers": 4, "heads": 2, "head_dim": 16, "rows": 1}
    stand_in = "StandInInfinity"

    @staticmethod
    def drop_out(model):
        model.block_chunks[0].module[0].sa.proj_drop = nn.Dropout(0.1)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("everything", [True, False])
def test_full_is_bit_identical_in_half_precision(ours, dtype, everything):
    """With weights in half precision `full` changes no bit, and the cache holds that dtype."""
    drawer = ours()
    drawer.model.to(dtype) if everything else drawer.model.blocks_to(dtype)
    before = drawer.draw()
    with compress(drawer.model, "full") as session:
        assert same(before, drawer.draw())
    assert str(dtype).removeprefix("torch.") == session.report().as_dict()["dtype"]


@pytest.mark.parametrize("aspect", ["4:5", "3:1"])
def test_full_is_bit_identical_on_other_canvases(make, aspect):
    """A schedule that differs from the model's own is planned when its image begins."""
    drawer, canvas = make(), Canvas(aspect, "0.06M")
    before = drawer.draw(canvas=canvas)
    with compress(drawer.model, "full", check=True) as session:
        assert same(before, drawer.draw(canvas=canvas))
    assert canvas.schedule == session.report().images[0].planned.plan.schedule


@pytest.mark.parametrize("policy", ["uniform", "h2o"])
def test_an_image_drawn_again_is_the_same(make, policy):
    """No image depends on those generated before it."""
    drawer = make()
    with compress(drawer.model, policy, "20%"):
        first = drawer.draw()
        drawer.draw(canvas=Canvas("2:1", "0.06M"))
        assert same(first, drawer.draw())


def test_sampling_is_deterministic_under_a_session(make_infinity, plain_text, size):
    """Prompt and seed determine an image, whatever else is in the batch."""
    model, text = make_infinity(size), plain_text(4, 7)
    with compress(model, "uniform", "20%"):
        batch = model.generate(text, seeds=[1, 2], top_p=0.97)
        again = model.generate(text, seeds=[1, 2], top_p=0.97)
        first = text.with_features(text.features)
        alone = model.generate(type(text)(first.features[:4], [4]), seeds=[1], top_p=0.97)
    assert torch.equal(batch.images, again.images)
    for both, one in zip(batch.tokens, alone.tokens, strict=True):
        assert torch.equal(both[:1], one)


def test_teacher_forcing_is_left_alone(make):
    """The masked pass over all scales uses no cache, inside a session and after an interrupted image."""
    drawer, schedule = make(), Canvas("1:1", "0.06M").maps
    x = torch.randn(2, 520, 6, generator=torch.Generator().manual_seed(0))
    more = () if isinstance(drawer, Ours) else ([(1, h, w) for h, w in schedule],)
    before = drawer.model(drawer.text, x, *more)
    with compress(drawer.model, "uniform", "20%"):
        drawer.draw()
        assert torch.equal(before, drawer.model(drawer.text, x, *more))
        with pytest.raises(RuntimeError):
            drawer.draw_until(RuntimeError)
        assert torch.equal(before, drawer.model(drawer.text, x, *more))


def test_the_stand_in_teacher_forces_as_recorded(make_official, golden, golden_text):
    """The stand-in's logits equal those recorded from the official code."""
    want, schedule = golden("like2b_io"), [(1, h, w) for h, w in Canvas("1:1", "0.06M").maps]
    got = make_official("like2b")(golden_text("like2b", "text2"), want["tf_sq.x"], schedule)
    torch.testing.assert_close(got, want["tf_sq.logits"], rtol=0, atol=1e-4)


def test_a_reset_in_the_official_way_is_honoured(official):
    """`kv_caching(True)` begins a new image, whether or not the last one ended."""
    drawer = official()
    with compress(drawer.model, "uniform", "20%") as session:
        undisturbed = drawer.draw()
        with pytest.raises(RuntimeError):
            drawer.draw_until(RuntimeError)
        for block in drawer.model.unregistered_blocks:
            block.sa.kv_caching(True)
        assert same(undisturbed, drawer.draw())
    assert 2 == len(session.report().images)
    assert not any(block.sa.caching for block in drawer.model.unregistered_blocks)


@pytest.mark.parametrize("pn", [None, "0.25M"])
def test_the_size_that_an_official_object_was_built_for_decides_nothing(official, pn):
    """The caller chooses the schedule of every image, and each image is planned when it begins."""
    drawer = official()
    whole, drawer.model.pn = drawer.draw(), pn
    with compress(drawer.model, "full") as session:
        assert same(whole, drawer.draw())
    assert Canvas("1:1", "0.06M").schedule == session.report().images[0].planned.plan.schedule


# The caller of the official object chooses the schedule of each image


WIDE, LARGE = Canvas("2:1", "0.06M"), Canvas("1:1", "0.25M")


@pytest.fixture(scope="module")
def profiles(make_official, plain_text):
    """What calibration measures on the official object with each of two schedules, neither the one of its `pn`."""

    def measured(canvas):
        drawer = Official(make_official("small"), plain_text(3))
        with calibrate(drawer.model) as calibration:
            drawer.draw(canvas=canvas)
        return calibration.profile()

    return [measured(canvas) for canvas in (WIDE, LARGE)]


def test_calibration_measures_the_schedule_of_the_image(profiles):
    """Calibration measures the schedule of the image, not that of `pn`."""
    assert [WIDE.schedule, LARGE.schedule] == [profile.schedule for profile in profiles]


def test_each_image_takes_the_profile_of_its_schedule(official, profiles):
    """Two schedules in one session use their own profiles; for a third the error names the missing profile."""
    drawer = official()
    with compress(drawer.model, "scalekv", "20%", profile=profiles, check=True) as session:
        for canvas in (WIDE, LARGE, WIDE):
            drawer.draw(canvas=canvas)
        with pytest.raises(
            ProfileError, match=f"no profile was measured with maps {SQUARE.schedule}; those given were"
        ):
            drawer.draw(canvas=SQUARE)
    images = session.report().images
    assert [profiles[0], profiles[1], profiles[0]] == [image.planned.profile for image in images]
    assert [WIDE.schedule, LARGE.schedule, WIDE.schedule] == [image.planned.plan.schedule for image in images]
    assert all(image.as_planned and image.dropped for image in images)


def test_tokens_are_measured_against_the_schedule_of_the_image(official):
    """500 tokens exceed the history of the smaller image and compress the larger one."""
    drawer = official()
    with compress(drawer.model, "uniform", "500 tokens", check=True) as session:
        drawer.draw(canvas=LARGE)
        with pytest.raises(BudgetError, match="budget 500 tokens is more than the whole history"):
            drawer.draw(canvas=WIDE)
    (image,) = session.report().images
    assert image.dropped
    assert 500 < LARGE.schedule.history[-1]


def test_both_layouts_of_the_official_object_are_known(official_flash):
    """That of its flash kernels too; it keeps its keys in float32, whatever the weights are in."""
    name, adapter = shared_registry().adapter_for(official_flash().model)
    assert "infinity-official" == name
    assert torch.float32 == adapter.geometry(official_flash().model.bfloat16()).unmodified_key_dtype


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_unmodified_cache_weighs_what_is_reported(official, precision):
    """The report's unmodified bytes equal what the official attention holds at the end of an image."""
    drawer, held = official(), []
    last = drawer.model.unregistered_blocks[-1].sa
    handle = last.register_forward_hook(lambda m, a, out: held.append(m.cached_k.nbytes + m.cached_v.nbytes))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        drawer.draw()
        handle.remove()
        with compress(drawer.model, "uniform", "20%") as session:
            drawer.draw()
    assert 4 * held[-1] == session.report().as_dict()["unmodified_bytes"]


def test_geometry_of_the_published_models():
    """At 1024 x 1024, with guidance: the official Infinity-8B holds 138,088 MiB for eight images, 2B in half precision."""
    geometry = InfinityConfig.published("infinity-8b").geometry(CANVASES["infinity-8b"], torch.bfloat16)
    official = type(geometry)(
        **{name: getattr(geometry, name) for name in ("schedule", "layers", "heads", "head_dim", "dtype")},
        rows=16,
        unmodified_key_dtype=torch.float32,
    )
    assert 138_088 == official.unmodified_bytes // 2**20
    assert set(PUBLISHED) == set(CANVASES)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_models_are_known_without_memory(name):
    """The geometry of a published model can be read from a module on the meta device."""
    with torch.device("meta"):
        model = Infinity(InfinityConfig.published(name), canvas=CANVASES[name])
    _, adapter = shared_registry().adapter_for(model)
    assert InfinityConfig.published(name).geometry(CANVASES[name]) == adapter.geometry(model)
