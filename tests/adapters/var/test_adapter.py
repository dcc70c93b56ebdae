"""Our VAR and the official object under a session: bit-identical where nothing is evicted, and restored afterwards."""

from __future__ import annotations

from typing import ClassVar

import attrs
import pytest
import torch
from torch import nn

from scalekv_adapters.var.adapter import VARAdapter
from scalekv_adapters.var.official import OfficialVARAdapter
from scalekv_core import (
    InputError,
    ScaleSchedule,
    calibrate,
    compress,
)
from tests.adapters.drawing import same
from tests.adapters.promises import AdapterPromises, Drawer

LABELS = (3, 7, 1)
PLAIN = "saln0_l2n1"
OTHER_VARIANTS = ("saln0_l2n0", "saln1_l2n1")


class DrawsLabels(Drawer):
    """A VAR, of either structure."""

    scales = 6
    unguided, guided = 0.0, 4.0

    def __init__(self, model):
        self.model = model

    @property
    def second_block(self):
        return self.model.blocks[1]


class Ours(DrawsLabels):
    """Our VAR, which generates by its own method."""

    def draw(self, labels=LABELS, *, guidance=DrawsLabels.guided):
        drawn = self.model.generate(labels, seeds=None, guidance=guidance, keep_logits=True)
        return [drawn.images, *drawn.tokens, *drawn.logits]


class Official(DrawsLabels):
    """An object with the official structure, which generates by the official method."""

    def draw(self, labels=LABELS, *, guidance=DrawsLabels.guided):
        images = self.model.autoregressive_infer_cfg(
            B=len(labels), label_B=torch.tensor(labels), g_seed=0, cfg=guidance, top_k=1
        )
        logits, tokens = zip(*self.model.drawn, strict=True)
        return [images, *tokens, *logits]


@pytest.fixture(
    params=[PLAIN, "saln1_l2n0", *(pytest.param(name, marks=pytest.mark.thorough) for name in OTHER_VARIANTS)]
)
def variant(request):
    """The variant of most published models and its opposite; the two between run in thorough tests."""
    return request.param


@pytest.fixture
def ours(make_var):
    return lambda variant=PLAIN: Ours(make_var(variant))


@pytest.fixture
def official(make_official):
    return lambda variant=PLAIN: Official(make_official(variant))


@pytest.fixture(params=["ours", "official"])
def make(request):
    """Makes something to generate with, of either structure."""
    return request.getfixturevalue(request.param)


@pytest.fixture(
    params=[
        lambda model: setattr(model.blocks[1].attn, "k_norm", nn.LayerNorm(32)),
        lambda model: delattr(model.blocks[1].attn, "q_bias"),
        lambda model: delattr(model.blocks[1].attn, "cached_k"),
        lambda model: delattr(model.blocks[1], "attn"),
        lambda model: setattr(model.blocks[1].attn, "forward", lambda x, attn_bias, freqs: x),
        lambda model: setattr(model, "blocks", nn.ModuleList()),
        lambda model: delattr(model, "patch_nums"),
    ],
    ids=["more weights", "fewer weights", "no cache", "no attention", "another call", "no blocks", "no schedule"],
)
def change(request):
    """What makes of the official structure a similar one."""
    return request.param


@pytest.fixture(scope="module")
def profile(make_var):
    """What calibration measures on the plain variant."""
    drawer = Ours(make_var(PLAIN))
    with calibrate(drawer.model) as calibration:
        drawer.draw()
    return calibration.profile()


class TestAdapters(AdapterPromises):
    """What every family promises."""

    adapters: ClassVar = {"var": VARAdapter, "var-official": OfficialVARAdapter}
    shape: ClassVar = {
        "schedule": ScaleSchedule.square(1, 2, 3, 4, 5, 6),
        "layers": 3,
        "heads": 3,
        "head_dim": 32,
        "rows": 1,
    }
    stand_in = "StandInVAR"

    @staticmethod
    def drop_out(model):
        model.blocks[1].attn.attn_drop = 0.1


def test_full_is_bit_identical_in_half_precision(ours):
    """With bfloat16 weights `full` changes no bit, and the cache holds bfloat16."""
    drawer = ours()
    drawer.model.bfloat16()
    before = drawer.draw()
    with compress(drawer.model, "full") as session:
        assert same(before, drawer.draw())
    assert "bfloat16" == session.report().as_dict()["dtype"]


@pytest.mark.parametrize("policy", ["uniform", "h2o"])
def test_an_image_depends_on_itself_alone(make, policy):
    """Under a session a label gives the same tokens again, alone or in a batch."""
    drawer = make()
    with compress(drawer.model, policy, "20%"):
        batch, again = drawer.draw(), drawer.draw()
        alone = [drawer.draw((label,)) for label in LABELS]
    assert same(batch, again)
    for one, row in zip(alone, drawer.tokens(batch), strict=True):
        assert torch.equal(drawer.tokens(one)[0], row)


def test_sampling_is_deterministic_under_a_session(plain_var):
    """Label and seed determine an image, whatever else is in the batch."""
    how = {"guidance": 2.0, "top_k": 30, "top_p": 0.9}
    with compress(plain_var, "uniform", "20%"):
        batch = plain_var.generate(LABELS, seeds=[1, 2, 3], **how)
        again = plain_var.generate(LABELS, seeds=[1, 2, 3], **how)
        backwards = plain_var.generate(LABELS[::-1], seeds=[3, 2, 1], **how)
    assert torch.equal(batch.images, again.images)
    assert [t.tolist() for t in batch.tokens] == [t.flip(0).tolist() for t in backwards.tokens]


def test_teacher_forcing_is_left_alone(make, golden):
    """The masked pass over all scales uses no cache, within a session and after an interrupted image."""
    drawer, want = make(), golden(f"var_{PLAIN}")
    before = drawer.model(want["tf.label"], want["tf.x"])
    with compress(drawer.model, "uniform", "20%"):
        drawer.draw()
        assert torch.equal(before, drawer.model(want["tf.label"], want["tf.x"]))
        with pytest.raises(RuntimeError):
            drawer.draw_until(RuntimeError)
        assert torch.equal(before, drawer.model(want["tf.label"], want["tf.x"]))
    torch.testing.assert_close(before, want["tf.logits"], rtol=0, atol=2e-4)


def test_maps_that_it_was_not_trained_with_are_refused(ours, official):
    """Patch sides other than those of the weights end in one line, when attaching and when changed later."""
    message = r"generate the maps 1x1 2x2 6x6, and was trained with maps of \(1, 4, 9, 16, 25, 36\) tokens"
    changed, theirs, mine = official(), official().model, ours().model
    theirs.patch_nums = (1, 2, 6)
    mine.config = attrs.evolve(mine.config, patch_sides=(1, 2, 6))
    for model in (theirs, mine):
        with pytest.raises(InputError, match=message), compress(model, "full"):
            raise AssertionError("never entered")
    with compress(changed.model, "full"):
        changed.draw()
        changed.model.patch_nums = (1, 2, 6)
        with pytest.raises(InputError, match=message):
            changed.draw()


def test_the_unmodified_cache_weighs_what_is_reported(official):
    """The report's unmodified bytes equal what the official attention holds at the end of an image."""
    drawer, held = official(), []
    last = drawer.model.blocks[-1].attn
    handle = last.register_forward_hook(lambda m, a, out: held.append(m.cached_k.nbytes + m.cached_v.nbytes))
    drawer.draw()
    handle.remove()
    with compress(drawer.model, "uniform", "20%") as session:
        drawer.draw()
    assert 3 * held[-1] == session.report().as_dict()["unmodified_bytes"]
