"""Wrong model adapters, all of them for the toy model."""

from __future__ import annotations

import torch
from attrs import evolve

from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.testing.toy import ToyAdapter, ToyModel
from tests.wrong_strategies.catalogue import fails


class Through:
    """A cache that passes everything on; subclasses put a fault in between."""

    def __init__(self, cache):
        self.cache = cache

    def attend(self, layer, q, k, v, *, softmax_scale):
        return self.cache.attend(layer, q, k, v, softmax_scale=softmax_scale)

    def close(self):
        self.cache.close()


class Wrapping(ToyAdapter):
    """Right: puts a wrapper around every cache."""

    wrapper = Through

    def attach(self, model, source):
        return super().attach(model, Source(source, type(self).wrapper))


class Source:
    def __init__(self, source, wrapper):
        self.source, self.wrapper = source, wrapper

    def new_cache(self, schedule):
        return self.wrapper(self.source.new_cache(schedule))


@fails("restores_exactly")
class NeverDetaches(ToyAdapter):
    """Its detach does nothing."""

    def attach(self, model, source):
        super().attach(model, source)
        return lambda: None


@fails("restores_exactly")
class LeavesANote(ToyAdapter):
    """Leaves an attribute behind."""

    def attach(self, model, source):
        model.is_compressed = True
        return super().attach(model, source)


@fails("restores_exactly")
class LeavesAHook(ToyAdapter):
    """Registers a hook and forgets it."""

    def attach(self, model, source):
        model.head.register_forward_hook(lambda *_: None)
        return super().attach(model, source)


@fails("restores_exactly")
class RoundsWeights(ToyAdapter):
    """Casts the weights to bfloat16 and back."""

    def attach(self, model, source):
        with torch.no_grad():
            model.head.weight.copy_(model.head.weight.bfloat16())
        return super().attach(model, source)


@fails("restores_after_an_exception")
class HoldsTheCache(ToyAdapter):
    """Keeps the image's cache in the model until the image is finished, which a failed image never is."""

    def attach(self, model, source):
        kept = {}

        class Held(Through):
            def attend(self, layer, q, k, v, *, softmax_scale):
                out = super().attend(layer, q, k, v, softmax_scale=softmax_scale)
                kept["done"] = layer
                return out

            def close(self):
                if kept.get("done") == 2:
                    super().close()
                    kept.clear()
                    model.__dict__.pop("cache", None)

        def new_cache(schedule):
            model.cache = Held(source.new_cache(schedule))
            return model.cache

        before = model.new_cache
        model.new_cache = new_cache

        def detach():
            model.new_cache = before

        return detach


@fails("restores_after_an_exception")
class Swallows(Wrapping):
    """Goes on with zeros when something goes wrong."""

    class wrapper(Through):
        def attend(self, layer, q, k, v, *, softmax_scale):
            try:
                return super().attend(layer, q, k, v, softmax_scale=softmax_scale)
            except Exception:
                return torch.zeros_like(q)


@fails("goes_on_after_an_exception")
class OneCacheForAll(ToyAdapter):
    """Makes a cache only after the previous one is closed, and does not close that of a failed image."""

    def attach(self, model, source):
        open_caches = []

        class Shared(Through):
            calls = 0

            def attend(self, layer, q, k, v, *, softmax_scale):
                out = super().attend(layer, q, k, v, softmax_scale=softmax_scale)
                self.calls += 1
                return out

            def close(self):
                if self.calls == 12:
                    open_caches.clear()
                    super().close()

        def new_cache(schedule):
            if not open_caches:
                open_caches.append(Shared(source.new_cache(schedule)))
            return open_caches[0]

        before = model.new_cache
        model.new_cache = new_cache
        return lambda: setattr(model, "new_cache", before)


@fails("holds_what_was_planned")
@fails("closes_its_caches")
class NeverCloses(Wrapping):
    """Does not close a cache."""

    class wrapper(Through):
        def close(self):
            pass


@fails("attention_is_the_caches")
class AttendsForItself(Wrapping):
    """Passes everything to the cache, but goes on with attention of its own."""

    class wrapper(Through):
        def __init__(self, cache):
            super().__init__(cache)
            self.own = ConcatCache()

        def attend(self, layer, q, k, v, *, softmax_scale):
            super().attend(layer, q, k, v, softmax_scale=softmax_scale)
            return self.own.attend(layer, q, k, v, softmax_scale=softmax_scale)


@fails("leaves_classes_alone")
class PatchesTheClass(ToyAdapter):
    """Replaces a method of the class."""

    def attach(self, model, source):
        original = ToyModel.steps
        ToyModel.steps = lambda *given: original(*given)
        detach = super().attach(model, source)

        def restore():
            ToyModel.steps = original
            detach()

        return restore


@fails("geometry_is_true")
class MiscountsHeads(ToyAdapter):
    """Takes the width of a head for that of all."""

    def geometry(self, model):
        return evolve(super().geometry(model), heads=1, head_dim=32)


@fails("geometry_is_true")
class OtherSchedule(ToyAdapter):
    """Says that all maps are squares."""

    def geometry(self, model):
        return evolve(super().geometry(model), schedule=[(1, 1), (2, 2), (3, 3), (4, 4)])


@fails("geometry_is_true")
class HalfKeys(Wrapping):
    """Hands keys over in another dtype than it says."""

    class wrapper(Through):
        def attend(self, layer, q, k, v, *, softmax_scale):
            out = super().attend(layer, q.double(), k.double(), v.double(), softmax_scale=softmax_scale)
            return out.to(q.dtype)


@fails("every_map_reaches_the_cache")
class SkipsALayer(Wrapping):
    """Lets the last layer attend to its own map only."""

    class wrapper(Through):
        def attend(self, layer, q, k, v, *, softmax_scale):
            if layer == 2:
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale)
            return super().attend(layer, q, k, v, softmax_scale=softmax_scale)


@fails("every_map_reaches_the_cache")
class ForgetsTheLastTokens(Wrapping):
    """Hands over all but the last token of a map."""

    class wrapper(Through):
        def attend(self, layer, q, k, v, *, softmax_scale):
            if q.shape[2] == 1:
                return super().attend(layer, q, k, v, softmax_scale=softmax_scale)
            out = super().attend(layer, q[:, :, :-1], k[:, :, :-1], v[:, :, :-1], softmax_scale=softmax_scale)
            return torch.cat([out, out[:, :, -1:]], dim=2)


@fails("forced_tokens_go_through_the_cache")
class LeavesOutGivenTokens(ToyAdapter):
    """Lets the model keep everything itself where tokens are given."""

    def attach(self, model, source):
        detach, draw = super().attach(model, source), model.draw

        def either(labels, forced=()):
            if not forced:
                return draw(labels)
            compressed, model.new_cache = model.new_cache, ConcatCache
            try:
                return draw(labels, forced)
            finally:
                model.new_cache = compressed

        def restore():
            del model.draw
            detach()

        model.draw = either
        return restore


@fails("closes_after_a_failure")
class ClosesLate(ToyAdapter):
    """Closes the cache of an image that failed when the next one attends for the first time."""

    def attach(self, model, source):
        late = []

        class Late(Through):
            calls = 0

            def attend(self, layer, q, k, v, *, softmax_scale):
                for cache in [one for one in late if one is not self.cache]:
                    late.remove(cache)
                    cache.close()
                self.calls += 1
                return super().attend(layer, q, k, v, softmax_scale=softmax_scale)

            def close(self):
                if self.calls == 12:
                    late.remove(self.cache)
                    super().close()

        def new_cache(schedule):
            late.append(source.new_cache(schedule))
            return Late(late[-1])

        before = model.new_cache
        model.new_cache = new_cache

        def detach():
            model.new_cache = before
            while late:
                late.pop().close()

        return detach


@fails("the_whole_cache_is_lossless")
class OtherScale(Wrapping):
    """Uses the usual softmax scale, which is not this model's."""

    class wrapper(Through):
        def attend(self, layer, q, k, v, *, softmax_scale):
            return super().attend(layer, q, k, v, softmax_scale=q.shape[-1] ** -0.5)


@fails("the_whole_cache_is_lossless")
class ThroughHalf(Wrapping):
    """Rounds what attention returns."""

    class wrapper(Through):
        def attend(self, layer, q, k, v, *, softmax_scale):
            return super().attend(layer, q, k, v, softmax_scale=softmax_scale).half().to(q.dtype)


@fails("knows_its_models")
class KnowsEverything(ToyAdapter):
    """Takes every module for its own."""

    def matches(self, model):
        return True


@fails("knows_its_models")
class KnowsNothing(ToyAdapter):
    """Does not know its own model."""

    def matches(self, model):
        return False


@fails("ignores_global_randomness")
class Seeds(ToyAdapter):
    """Seeds torch when it attaches."""

    def attach(self, model, source):
        torch.manual_seed(0)
        return super().attach(model, source)
