"""Wrong image models, all of them the toy model with a fault."""

from __future__ import annotations

from itertools import count

import torch
from attrs import define, evolve, field, frozen

from scalekv_core.models.card import ModelCard
from scalekv_core.models.sampling import Sampling
from scalekv_core.testing import toy
from tests.wrong_strategies.catalogue import fails


class Faulty(toy.ToyImageModel):
    """Right: the toy model. ``change`` is given what it generated."""

    def generate(self, prompts, *, seeds, sampling=None, forced=None, keep_logits=False):
        others = {"sampling": sampling, "forced": forced, "keep_logits": keep_logits}
        return self.change(super().generate(prompts, seeds=seeds, **others))

    def change(self, drawn):
        return drawn


@frozen(kw_only=True)
class Card(toy.ToyCard):
    """Right: loads the model of its ``model``."""

    model = Faulty

    def load(self, **how):
        return self.model(super().load(**how).module)


@fails("is_a_value")
@define(kw_only=True)
class WritableCard(ModelCard):
    """Is not frozen."""

    summary: str = "toy"
    weights: str = "none"
    geometry: object = toy.GEOMETRY

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)

    def load(self, **how):
        return toy.ToyCard().load(**how)


@fails("loads_what_it_says")
@frozen(kw_only=True)
class OtherMaps(Card):
    """Says another schedule than its model has."""

    geometry: object = field(factory=lambda: evolve(toy.GEOMETRY, schedule=[(1, 1), (2, 2)]))


@fails("loads_what_it_says")
@frozen(kw_only=True)
class OtherSampling(Card):
    """Says another guidance than its model generates with."""

    sampling: Sampling = field(factory=lambda: Sampling(guidance=3.0))


@fails("generates_images")
@frozen(kw_only=True)
class BelowZero(Card):
    """Generates pixels from -1 to 1."""

    class model(Faulty):
        def change(self, drawn):
            return evolve(drawn, images=drawn.images * 2 - 1)


@fails("generates_images")
@frozen(kw_only=True)
class UntoldClips(Card):
    """Generates clips, of which its card tells nothing."""

    class model(Faulty):
        def change(self, drawn):
            return evolve(drawn, images=drawn.images.unsqueeze(2).repeat(1, 1, 3, 1, 1))


@fails("generates_images")
@frozen(kw_only=True)
class StillClips(Card):
    """Says that it generates clips, and generates images."""

    fps: float = 8.0


@fails("repeats_itself")
@frozen(kw_only=True)
class Ages(Card):
    """Generates a little darker every time."""

    class model(Faulty):
        def __init__(self, module):
            super().__init__(module)
            self.calls = count(1)

        def change(self, drawn):
            return evolve(drawn, images=drawn.images / next(self.calls))


@fails("images_are_apart")
@frozen(kw_only=True)
class DrawsTheBatch(Card):
    """Shifts the tokens of an image by the number of images beside it."""

    class model(Faulty):
        def change(self, drawn):
            return evolve(drawn, tokens=tuple((x + len(x)) % toy.CODES for x in drawn.tokens))


@fails("forced_tokens_are_taken")
@frozen(kw_only=True)
class DrawsItsOwn(Card):
    """Does not listen to forced tokens."""

    class model(Faulty):
        def generate(self, prompts, *, seeds, sampling=None, forced=None, keep_logits=False):
            return super().generate(prompts, seeds=seeds, sampling=sampling, keep_logits=keep_logits)


@fails("ignores_global_randomness")
@frozen(kw_only=True)
class Grainy(Card):
    """Adds grain from the global generator."""

    class model(Faulty):
        def change(self, drawn):
            return evolve(drawn, images=(drawn.images + torch.rand_like(drawn.images) / 100).clamp(0, 1))


@fails("refuses_what_it_cannot_generate")
@frozen(kw_only=True)
class TakesAnySeeds(Card):
    """Leaves out the seeds that are too many."""

    class model(Faulty):
        def generate(self, prompts, *, seeds, **others):
            return super().generate(prompts, seeds=list(seeds)[: len(prompts)], **others)
