"""Our VAR and the official object under a session: as unmodified where nothing is dropped, and afterwards always."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import nn

from scalekv_adapters.var.adapter import VARAdapter
from scalekv_adapters.var.generation import VAR
from scalekv_adapters.var.official import OfficialVARAdapter
from scalekv_core import (
    InputError,
    ScaleSchedule,
    SessionError,
    calibrate,
    compress,
    shared_registry,
)
from scalekv_core.cache.concat_cache import ConcatCache
from tests.adapters.drawing import draw_until_block, every_policy, everything_in, policy_and_budget, same

LABELS = (3, 7, 1)
PLAIN = "saln0_l2n1"
OTHER_VARIANTS = ("saln0_l2n0", "saln1_l2n1")


class Ours:
    """Our VAR, which generates by its own method."""

    def __init__(self, model):
        self.model = model

    def draw(self, labels=LABELS, *, guidance=4.0):
        """Everything that comes out: images, then tokens and logits of every scale; the likeliest tokens."""
        drawn = self.model.generate(labels, seeds=None, guidance=guidance, keep_logits=True)
        return [drawn.images, *drawn.tokens, *drawn.logits]


class Official:
    """An object with the official structure, which generates by the official method."""

    def __init__(self, model):
        self.model = model

    def draw(self, labels=LABELS, *, guidance=4.0):
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


def tokens_of(drawn, image=None):
    """All tokens of a generation, or of one image of it, in order."""
    tokens = torch.cat(drawn[1:7], dim=1)
    return (tokens if image is None else tokens[image]).tolist()


def draw_interrupted(drawer, error):
    """Draws under a session, and is stopped at the third scale, between two layers."""
    with compress(drawer.model, "uniform", "20%"):
        draw_until(drawer, error)


def draw_until(drawer, error):
    """Draws, and is stopped at the third scale, between two layers."""
    draw_until_block(drawer, error, drawer.model.blocks[1])


@pytest.fixture(scope="module")
def profile(make_var):
    """What calibration measures on the plain variant."""
    drawer = Ours(make_var(PLAIN))
    with calibrate(drawer.model) as calibration:
        drawer.draw()
    return calibration.profile()


def test_the_stand_in_is_ours(ours, official, variant):
    """The stand-in generates what our VAR generates, so whatever the adapters promise of one can be checked on the other."""
    mine, theirs = ours(variant).draw(), official(variant).draw()
    assert tokens_of(mine) == tokens_of(theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)


# Nothing is dropped: nothing changes


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_full_is_bit_identical(make, variant, guidance):
    """Policy `full` changes no bit of images, tokens or logits, in any variant, with and without guidance."""
    drawer = make(variant)
    before = drawer.draw(guidance=guidance)
    with compress(drawer.model, "full", check=True) as session:
        during = drawer.draw(guidance=guidance)
    assert same(before, during)
    assert same(before, drawer.draw(guidance=guidance))
    assert [image.as_planned for image in session.report().images] == [True]


def test_full_is_bit_identical_in_half_precision(ours):
    """So it is with bfloat16 weights, and the cache then holds bfloat16."""
    drawer = ours()
    drawer.model.bfloat16()
    before = drawer.draw()
    with compress(drawer.model, "full") as session:
        assert same(before, drawer.draw())
    assert "bfloat16" == session.report().as_dict()["dtype"]


def test_full_is_bit_identical_under_autocast(make, variant):
    """So it is under autocast, as the official demonstration generates; the cache holds what attention reads."""
    drawer = make(variant)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = drawer.draw()
        with compress(drawer.model, "full") as session:
            assert same(before, drawer.draw())
    assert "bfloat16" == session.report().as_dict()["dtype"]


# Something is dropped


@every_policy
def test_every_policy_draws_the_same_with_both(ours, official, profile, name, budget):
    """Each holds what was planned, drops what it must, and generates the same tokens with either structure."""
    policy, budget = policy_and_budget(name, budget)
    drawn = []
    for drawer in (ours(), official()):
        with compress(drawer.model, policy, budget, check=True, profile=profile) as session:
            drawn.append(drawer.draw())
        (image,) = session.report().images
        assert image.as_planned
        assert policy.allocator.spends_all == image.dropped
    assert tokens_of(drawn[0]) == tokens_of(drawn[1])
    for a, b in zip(*drawn, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-4)


def test_a_smaller_cache_changes_the_image(make):
    """Compression takes effect: at 20 % other logits come out, from the first scale that finds tokens missing."""
    drawer = make()
    before = drawer.draw()
    with compress(drawer.model, "uniform", "20%"):
        during = drawer.draw()
    assert not torch.equal(before[-1], during[-1])
    assert torch.equal(before[7], during[7])


@pytest.mark.parametrize("policy", ["uniform", "h2o"])
def test_an_image_depends_on_itself_alone(make, policy):
    """Under a session too: generated again, alone or among others, a label gives the same tokens."""
    drawer = make()
    with compress(drawer.model, policy, "20%"):
        batch, again = drawer.draw(), drawer.draw()
        alone = [drawer.draw((label,)) for label in LABELS]
    assert same(batch, again)
    for image in range(len(LABELS)):
        assert tokens_of(alone[image], 0) == tokens_of(batch, image)


def test_sampling_is_deterministic_under_a_session(plain_var):
    """Label and seed determine an image, whatever is beside it."""
    how = {"guidance": 2.0, "top_k": 30, "top_p": 0.9}
    with compress(plain_var, "uniform", "20%"):
        batch = plain_var.generate(LABELS, seeds=[1, 2, 3], **how)
        again = plain_var.generate(LABELS, seeds=[1, 2, 3], **how)
        backwards = plain_var.generate(LABELS[::-1], seeds=[3, 2, 1], **how)
    assert torch.equal(batch.images, again.images)
    assert [t.tolist() for t in batch.tokens] == [t.flip(0).tolist() for t in backwards.tokens]


def test_teacher_forcing_is_left_alone(make, golden):
    """The masked pass over all scales at once knows nothing of caches: within a session, and with an image left half."""
    drawer, want = make(), golden(f"var_{PLAIN}")
    before = drawer.model(want["tf.label"], want["tf.x"])
    with compress(drawer.model, "uniform", "20%"):
        drawer.draw()
        assert torch.equal(before, drawer.model(want["tf.label"], want["tf.x"]))
        with pytest.raises(RuntimeError):
            draw_until(drawer, RuntimeError)
        assert torch.equal(before, drawer.model(want["tf.label"], want["tf.x"]))
    torch.testing.assert_close(before, want["tf.logits"], rtol=0, atol=2e-4)


# Afterwards


def test_detaching_restores_everything(make):
    """After the block no module has an attribute more, less or other than before, and no class was touched."""
    drawer = make()
    before, classes = everything_in(drawer.model), {type(m): dict(vars(type(m))) for m in drawer.model.modules()}
    drawing = drawer.draw()
    with compress(drawer.model, "uniform", "20%"):
        drawer.draw()
        assert before != everything_in(drawer.model)
    assert before == everything_in(drawer.model)
    assert classes == {kind: dict(vars(kind)) for kind in classes}
    assert same(drawing, drawer.draw())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_image_leaves_nothing_behind(make, error):
    """Stopped between two layers, the model is restored, and generates as if nothing had happened."""
    drawer = make()
    before, drawing = everything_in(drawer.model), drawer.draw()
    with pytest.raises(error):
        draw_interrupted(drawer, error)
    assert before == everything_in(drawer.model)
    assert same(drawing, drawer.draw())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_next_image_of_a_session_starts_from_nothing(make, error):
    """What an interrupted image has cached is not seen by the next, and only that one is reported."""
    drawer = make()
    with compress(drawer.model, "h2o", "20%"):
        undisturbed = drawer.draw()
    with compress(drawer.model, "h2o", "20%") as session:
        with pytest.raises(error):
            draw_until(drawer, error)
        assert same(undisturbed, drawer.draw())
    assert 1 == len(session.report().images)


def test_an_attribute_that_was_the_classes_is_the_classes_again(plain_var):
    """A `new_cache` that an instance had from its class does not become its own."""

    class WithSeam(VAR):
        new_cache = ConcatCache

    plain_var.__class__ = WithSeam
    del plain_var.new_cache
    with compress(plain_var, "full"):
        Ours(plain_var).draw()
    assert "new_cache" not in vars(plain_var)
    assert plain_var.new_cache is ConcatCache


# Refusals


def test_a_second_session_is_refused(make):
    """One model, one session; the message names the first, which goes on working."""
    drawer = make()
    message = "already attached to 'uniform'; leave that block first"
    with compress(drawer.model, "uniform", "20%"):
        with pytest.raises(SessionError, match=message), compress(drawer.model, "full"):
            raise AssertionError("never entered")
        drawer.draw()


def test_two_models_do_not_know_of_each_other(make):
    """Sessions of two instances nest, and each compresses its own."""
    first, second = make(), make()
    whole = second.draw()
    with compress(first.model, "uniform", "20%"), compress(second.model, "full"):
        small, large = first.draw(), second.draw()
    assert same(whole, large)
    assert not torch.equal(small[-1], large[-1])


def test_another_instance_is_not_compressed(make):
    """Generating with another instance than the attached one is no compression, and is said."""
    attached, other = make(), make()
    message = "no image was completed inside the block; was another model"
    with pytest.raises(SessionError, match=message), compress(attached.model, "uniform", "20%"):
        other.draw()


def test_maps_that_it_was_not_trained_with_are_refused(ours, official):
    """Other patch sides than the weights' are named in one line, when attaching and when they are changed later."""
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


def test_attention_dropout_is_refused(official):
    """The official attention drops out at random in training mode; a cache cannot, so that is named."""
    drawer = official()
    drawer.model.train()
    drawer.model.blocks[1].attn.attn_drop = 0.1
    with compress(drawer.model, "full"):
        with pytest.raises(SessionError, match=r"in training mode with dropout; call eval\(\)"):
            drawer.draw()
        drawer.model.eval()
        drawer.draw()


# Who is who


def test_each_adapter_knows_its_own(ours, official):
    """Exactly one adapter knows each structure."""
    names = [shared_registry().adapter_for(make().model)[0] for make in (ours, official)]
    assert ["var", "var-official"] == names
    assert not VARAdapter().matches(official().model)
    assert not OfficialVARAdapter().matches(ours().model)


@pytest.mark.parametrize(
    "change",
    [
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
def test_what_is_only_similar_is_not_official(official, change):
    """A relative of VAR, whose attention computes something else, is not taken for it."""
    model = official().model
    change(model)
    message = r"no adapter knows a StandInVAR; installed adapters: .*var-official"
    with pytest.raises(SessionError, match=message), compress(model, "full"):
        raise AssertionError("never entered")


def test_geometry_is_read_off_the_model(ours, official):
    """Schedule, layers, heads, width and dtype; the same for both structures."""
    want = {"schedule": ScaleSchedule.square(1, 2, 3, 4, 5, 6), "layers": 3, "heads": 3, "head_dim": 32, "rows": 1}
    for adapter, model in ((VARAdapter(), ours().model), (OfficialVARAdapter(), official().model)):
        for dtype in (torch.float32, torch.bfloat16):
            got = adapter.geometry(model.to(dtype))
            assert {**want, "dtype": dtype} == {name: getattr(got, name) for name in (*want, "dtype")}


def test_the_unmodified_cache_weighs_what_is_reported(official):
    """What the report calls unmodified is what the official attention really holds at the end of an image."""
    drawer, held = official(), []
    last = drawer.model.blocks[-1].attn
    handle = last.register_forward_hook(lambda m, a, out: held.append(m.cached_k.nbytes + m.cached_v.nbytes))
    drawer.draw()
    handle.remove()
    with compress(drawer.model, "uniform", "20%") as session:
        drawer.draw()
    assert 3 * held[-1] == session.report().as_dict()["unmodified_bytes"]
