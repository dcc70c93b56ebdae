"""What every family's adapters promise, of the model written here and of the official object: a family's tests inherit it.

A family gives the fixtures ``ours`` and ``official`` (each makes a `Drawer` of a variant, the plain one by default), ``make``
(one of them after the other), ``variant``, ``profile`` of the plain variant, and ``change`` (see the last test).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import pytest
import torch

from scalekv_core import SessionError, compress, shared_registry
from scalekv_core.cache.concat_cache import ConcatCache
from tests.adapters.drawing import draw_until_block, every_policy, everything_in, policy_and_budget, same


class Drawer(ABC):
    """A model, and how it generates."""

    scales: ClassVar[int]
    unguided: ClassVar[float]
    guided: ClassVar[float]

    @abstractmethod
    def draw(self, *, guidance=None):
        """Everything that comes out: images, then tokens and logits of every scale; the likeliest tokens."""

    @property
    @abstractmethod
    def second_block(self):
        """Of the transformer."""

    def tokens(self, drawn):
        """All tokens of a generation, in order."""
        return torch.cat(drawn[1 : 1 + self.scales], dim=1)

    def logits(self, drawn):
        """Of every scale."""
        return drawn[1 + self.scales :]

    def draw_until(self, error):
        """Generates, and is stopped at the third scale, between two layers."""
        draw_until_block(self, error, self.second_block)


def floats(drawn):
    """What is compared with a tolerance."""
    return [tensor for tensor in drawn if tensor.is_floating_point()]


class AdapterPromises:
    """The tests; a family's class names its adapters and the shape of its plain variant."""

    adapters: ClassVar[dict[str, type]]
    """{name: class}, of the model written here and of the official object."""
    shape: ClassVar[dict[str, object]]
    stand_in: ClassVar[str]

    @staticmethod
    def drop_out(model):
        """Gives a part of the official object a rate of dropout."""
        raise NotImplementedError

    def test_the_stand_in_is_ours(self, ours, official, variant):
        """The stand-in generates what our model generates, so what the adapters promise of one can be checked on the other."""
        drawer = ours(variant)
        mine, theirs = drawer.draw(), official(variant).draw()
        assert torch.equal(drawer.tokens(mine), drawer.tokens(theirs))
        for a, b in zip(floats(mine), floats(theirs), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-4)

    # Nothing is dropped: nothing changes

    @pytest.mark.parametrize("guided", [False, True], ids=["unguided", "guided"])
    def test_full_is_bit_identical(self, make, variant, guided):
        """Policy `full` changes no bit of images, tokens or logits, in any variant, with and without guidance."""
        drawer = make(variant)
        guidance = drawer.guided if guided else drawer.unguided
        before = drawer.draw(guidance=guidance)
        with compress(drawer.model, "full", check=True) as session:
            during = drawer.draw(guidance=guidance)
        assert same(before, during)
        assert same(before, drawer.draw(guidance=guidance))
        assert [image.as_planned for image in session.report().images] == [True]

    def test_full_is_bit_identical_under_autocast(self, make, variant):
        """So it is under autocast, as the official demonstrations generate; the cache holds what attention reads."""
        drawer = make(variant)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            before = drawer.draw()
            with compress(drawer.model, "full") as session:
                assert same(before, drawer.draw())
        assert "bfloat16" == session.report().as_dict()["dtype"]

    # Something is dropped

    @every_policy
    def test_every_policy_draws_the_same_with_both(self, ours, official, profile, name, budget):
        """Each holds what was planned, drops what it must, and generates the same tokens with either structure."""
        policy, budget = policy_and_budget(name, budget)
        drawn = []
        for drawer in (ours(), official()):
            with compress(drawer.model, policy, budget, check=True, profile=profile) as session:
                drawn.append(drawer.draw())
            (image,) = session.report().images
            assert image.as_planned
            assert policy.allocator.spends_all == image.dropped
        assert torch.equal(*map(drawer.tokens, drawn))
        for a, b in zip(*map(floats, drawn), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=5e-4)

    def test_a_smaller_cache_changes_the_image(self, make):
        """Compression takes effect: at 20 % other logits come out, from the first scale that finds tokens missing."""
        drawer = make()
        before = drawer.logits(drawer.draw())
        with compress(drawer.model, "uniform", "20%"):
            during = drawer.logits(drawer.draw())
        assert not torch.equal(before[-1], during[-1])
        assert torch.equal(before[0], during[0])

    # Afterwards

    def test_detaching_restores_everything(self, make):
        """After the block no module has an attribute more, less or other than before, and no class was touched."""
        drawer = make()
        classes = {type(m): dict(vars(type(m))) for m in drawer.model.modules()}
        drawing = drawer.draw()
        before = everything_in(drawer.model)
        with compress(drawer.model, "uniform", "20%"):
            drawer.draw()
            assert before != everything_in(drawer.model)
        assert before == everything_in(drawer.model)
        assert classes == {kind: dict(vars(kind)) for kind in classes}
        assert same(drawing, drawer.draw())

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_interrupted_image_leaves_nothing_behind(self, make, error):
        """Stopped between two layers, the model is restored, and generates as if nothing had happened."""
        drawer = make()
        drawing = drawer.draw()
        before = everything_in(drawer.model)
        with pytest.raises(error), compress(drawer.model, "uniform", "20%"):
            drawer.draw_until(error)
        assert before == everything_in(drawer.model)
        assert same(drawing, drawer.draw())

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_the_next_image_of_a_session_starts_from_nothing(self, make, error):
        """What an interrupted image has cached is not seen by the next, and only that one is reported."""
        drawer = make()
        with compress(drawer.model, "h2o", "20%"):
            undisturbed = drawer.draw()
        with compress(drawer.model, "h2o", "20%") as session:
            with pytest.raises(error):
                drawer.draw_until(error)
            assert same(undisturbed, drawer.draw())
        assert 1 == len(session.report().images)

    def test_an_attribute_that_was_the_classes_is_the_classes_again(self, ours):
        """A `new_cache` that an instance had from its class does not become its own."""
        drawer = ours()
        model = drawer.model
        model.__class__ = type("WithSeam", (type(model),), {"new_cache": ConcatCache})
        del model.new_cache
        with compress(model, "full"):
            drawer.draw()
        assert "new_cache" not in vars(model)
        assert model.new_cache is ConcatCache

    # Refusals

    def test_a_second_session_is_refused(self, make):
        """One model, one session; the message names the first, which goes on working."""
        drawer = make()
        message = "already attached to 'uniform'; leave that block first"
        with compress(drawer.model, "uniform", "20%"):
            with pytest.raises(SessionError, match=message), compress(drawer.model, "full"):
                raise AssertionError("never entered")
            drawer.draw()

    def test_two_models_do_not_know_of_each_other(self, make):
        """Sessions of two instances nest, and each compresses its own."""
        first, second = make(), make()
        whole = second.draw()
        with compress(first.model, "uniform", "20%"), compress(second.model, "full"):
            small, large = first.draw(), second.draw()
        assert same(whole, large)
        assert not torch.equal(small[-1], large[-1])

    def test_another_instance_is_not_compressed(self, make):
        """Generating with another instance than the attached one is no compression, and is said."""
        attached, other = make(), make()
        message = "no image was completed inside the block; was another model"
        with pytest.raises(SessionError, match=message), compress(attached.model, "uniform", "20%"):
            other.draw()

    def test_dropout_is_refused(self, official):
        """In training mode the official object drops out at random, and generates another image every time; that is named."""
        drawer = official()
        self.drop_out(drawer.model)
        drawer.model.train()
        message = r"in training mode with dropout; call eval\(\)"
        with compress(drawer.model, "full"):
            with pytest.raises(SessionError, match=message):
                drawer.draw()
            drawer.model.eval()
            drawer.draw()

    # Who is who

    def test_each_adapter_knows_its_own(self, ours, official):
        """Exactly one adapter knows each structure."""
        models = [ours().model, official().model]
        assert list(self.adapters) == [shared_registry().adapter_for(model)[0] for model in models]
        for adapter, other in zip(self.adapters.values(), reversed(models), strict=True):
            assert not adapter().matches(other)

    def test_geometry_is_read_off_the_model(self, ours, official):
        """Schedule, layers, heads, width and dtype; the same for both structures."""
        for adapter, model in zip(self.adapters.values(), (ours().model, official().model), strict=True):
            for dtype in (torch.float32, torch.bfloat16):
                got = adapter().geometry(model.to(dtype))
                assert {**self.shape, "dtype": dtype} == {name: getattr(got, name) for name in (*self.shape, "dtype")}

    def test_what_is_only_similar_is_not_official(self, official, change):
        """A relative of the family, whose attention computes something else, is not taken for it."""
        model = official().model
        change(model)
        name = list(self.adapters)[-1]
        message = rf"no adapter knows a {self.stand_in}; installed adapters: .*{name}"
        with pytest.raises(SessionError, match=message), compress(model, "full"):
            raise AssertionError("never entered")
