"""Generation of a VAR with any weights: shapes, seeds, batches, sampling, guidance, forcing and refusals."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch.testing import assert_close

from scalekv_adapters.var.generation import VAR
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.errors import InputError
from scalekv_core.shapes.schedule import ScaleSchedule

LABELS, SEEDS = [3, 7, 3], [1, 2, 3]


def tokens_of(generation, image):
    """All tokens of one image, in order."""
    return torch.cat([tokens[image] for tokens in generation.tokens]).tolist()


def test_shapes_and_ranges(plain_var):
    """Images are RGB in [0, 1], with one map per scale, and logits over all codes on request."""
    got = plain_var.generate(LABELS, seeds=SEEDS, keep_logits=True)
    assert tuple(got.images.shape) == (3, 3, 12, 12)
    assert got.images.min() >= 0
    assert got.images.max() <= 1
    assert [(3, n) for n in (1, 4, 9, 16, 25, 36)] == [tuple(tokens.shape) for tokens in got.tokens]
    assert [(3, n, 64) for n in (1, 4, 9, 16, 25, 36)] == [tuple(logits.shape) for logits in got.logits]
    assert plain_var.generate(LABELS, seeds=SEEDS).logits is None


def test_the_same_seeds_give_the_same_images(plain_var):
    """Two runs are bit-equal, and other seeds give other images."""
    first, second = (plain_var.generate(LABELS, seeds=SEEDS) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert tokens_of(first, 0) != tokens_of(first, 2)


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_an_image_does_not_depend_on_its_batch(plain_var, guidance):
    """A label and a seed give the same image alone, in a batch and in another order."""
    options = {"guidance": guidance, "top_k": 20, "top_p": 0.9}
    batch = plain_var.generate(LABELS, seeds=SEEDS, **options)
    backwards = plain_var.generate(LABELS[::-1], seeds=SEEDS[::-1], **options)
    for i in range(3):
        alone = plain_var.generate(LABELS[i : i + 1], seeds=SEEDS[i : i + 1], **options)
        assert tokens_of(alone, 0) == tokens_of(batch, i) == tokens_of(backwards, 2 - i)
        assert_close(alone.images[0], batch.images[i], rtol=0, atol=5e-5)


def test_the_global_generator_plays_no_part(plain_var):
    """Torch's global generator is neither read nor advanced."""
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = plain_var.generate(LABELS, seeds=SEEDS)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first.images, plain_var.generate(LABELS, seeds=SEEDS).images)


def test_top_k_of_one_is_greedy(plain_var):
    """With one candidate left, the seed does not matter."""
    greedy = plain_var.generate(LABELS, seeds=None)
    assert torch.equal(greedy.images, plain_var.generate(LABELS, seeds=SEEDS, top_k=1).images)


def test_a_low_temperature_is_greedy(plain_var):
    """The lower the temperature, the closer the choice to the likeliest tokens."""
    greedy = plain_var.generate(LABELS, seeds=None)
    assert tokens_of(greedy, 0) == tokens_of(plain_var.generate(LABELS, seeds=SEEDS, temperature=1e-5), 0)


def test_no_guidance_runs_no_unconditioned_rows(plain_var):
    """With guidance 0 attention sees B rows, otherwise 2B."""
    rows = []

    class Watching(ConcatCache):
        def attend(self, layer, q, k, v, *, softmax_scale):
            rows.append(len(q))
            return super().attend(layer, q, k, v, softmax_scale=softmax_scale)

    plain_var.new_cache = Watching
    plain_var.generate(LABELS, seeds=SEEDS, guidance=0)
    plain_var.generate(LABELS, seeds=SEEDS, guidance=1e-3)
    assert rows == [3] * 18 + [6] * 18


def test_guidance_starts_at_zero(plain_var):
    """The first scale is unguided, whatever the strength; the last one is not."""
    weak, strong = (plain_var.generate(LABELS, seeds=None, guidance=g, keep_logits=True) for g in (0, 4))
    assert_close(weak.logits[0], strong.logits[0], rtol=0, atol=1e-5)
    assert not torch.allclose(weak.logits[1], strong.logits[1], atol=1e-2)


def test_forcing_its_own_tokens_changes_nothing(plain_var):
    """Forced with its own tokens, a model makes the same choices and the same image."""
    free = plain_var.generate(LABELS, seeds=SEEDS)
    for scales in (2, 6):
        forced = plain_var.generate(LABELS, seeds=SEEDS, forced=free.tokens[:scales])
        assert torch.equal(free.images, forced.images)
        assert [t.tolist() for t in free.choices] == [t.tolist() for t in forced.choices]


def test_forced_tokens_go_in_and_choices_are_still_reported(plain_var):
    """The loop uses the forced tokens, and the generation also reports what the model would have chosen."""
    free = plain_var.generate(LABELS, seeds=SEEDS)
    other = [(tokens + 1) % 64 for tokens in free.tokens[:1]]
    got = plain_var.generate(LABELS, seeds=SEEDS, forced=other)
    assert other[0].tolist() == got.tokens[0].tolist()
    assert free.choices[0].tolist() == got.choices[0].tolist()
    assert got.tokens[1].tolist() == got.choices[1].tolist() != free.tokens[1].tolist()


def test_on_scale_is_told_every_scale(plain_var):
    """The callback runs once per scale, in order, with the sum from which the image so far is decoded."""
    steps = []
    got = plain_var.generate(LABELS, seeds=SEEDS, on_scale=steps.append)
    assert list(range(6)) == [step.scale for step in steps]
    assert torch.equal(got.images, (plain_var.vqvae.decode(steps[-1].total) + 1) / 2)


class Closing(ConcatCache):
    """Remembers all its instances, what they were made for, and whether they were closed."""

    made: list[Closing]

    def __init__(self, schedule):
        super().__init__(schedule)
        self.schedule, self.closed = schedule, False
        self.made.append(self)

    def close(self):
        super().close()
        self.closed = True


@pytest.fixture
def closing():
    """A fresh class of caches."""
    return type("Closing", (Closing,), {"made": []})


def test_a_cache_is_made_for_every_generation_and_closed(plain_var, closing):
    """Each generation makes one cache for its schedule and closes it."""
    plain_var.new_cache = closing
    for _ in range(2):
        plain_var.generate(LABELS, seeds=SEEDS)
    assert [cache.closed for cache in closing.made] == [True, True]
    assert ScaleSchedule.square(1, 2, 3, 4, 5, 6) == closing.made[0].schedule


def test_an_exception_closes_the_cache(plain_var, closing):
    """An interrupted generation leaves nothing behind, and the next one is correct."""

    def interrupt(step):
        if step.scale == 2:
            raise KeyboardInterrupt

    before = plain_var.generate(LABELS, seeds=SEEDS)
    plain_var.new_cache = closing
    with pytest.raises(KeyboardInterrupt):
        plain_var.generate(LABELS, seeds=SEEDS, on_scale=interrupt)
    assert closing.made[0].closed
    assert torch.equal(before.images, plain_var.generate(LABELS, seeds=SEEDS).images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [3, 10]}, r"labels from 0 to 9, got \[3, 10\]"),
        ({"labels": [-1, 3]}, r"labels from 0 to 9, got \[-1, 3\]"),
        ({"labels": []}, r"labels \(B,\), one or more integers; got"),
        ({"labels": [[3], [7]]}, r"one or more integers; got torch.int64 \(2, 1\)"),
        ({"labels": [3.0, 7.0]}, r"one or more integers; got torch.float32 \(2,\)"),
        ({"seeds": [1]}, "one seed per image: 2 images, got 1 seeds"),
        ({"guidance": -1.0}, r"sampling needs guidance at least 0 \(0 generates without\); got -1.0"),
        ({"top_k": -5}, r"sampling needs top_k at least 0, whole \(0 lets all compete\); got -5"),
        ({"top_k": 0.5}, r"sampling needs top_k at least 0, whole \(0 lets all compete\); got 0.5"),
        ({"top_p": 1.5}, r"sampling needs top_p from 0 to 1 \(0 lets all compete\); got 1.5"),
        ({"temperature": 0.0}, r"sampling needs temperature above 0 \(see greedy\); got 0.0"),
        ({"temperature": float("nan")}, r"sampling needs temperature above 0 \(see greedy\); got nan"),
        ({"forced": [torch.zeros(2, 1, dtype=torch.long)] * 7}, "at most 6 scales, got 7"),
        (
            {"forced": [torch.zeros(2, 4, dtype=torch.long)]},
            r"scale 0 to be integers \(2, 1\), got torch.int64 \(2, 4\)",
        ),
        ({"forced": [torch.zeros(2, 1)]}, r"integers \(2, 1\), got torch.float32 \(2, 1\)"),
        ({"forced": [torch.full((2, 1), 64)]}, "forced tokens from 0 to 63, got 64 to 64 at scale 0"),
    ],
)
def test_what_does_not_fit_is_refused(plain_var, options, message):
    """Wrong inputs end in one line with what was wanted and given, before generation begins."""
    plain_var.new_cache = None
    with pytest.raises(InputError, match=message):
        plain_var.generate(**{"labels": [3, 7], "seeds": [1, 2], **options})


def test_a_var_without_vqvae_draws_nothing(var_config):
    """The error says how to give it a VQVAE."""
    with pytest.raises(
        InputError, match=r"has no VQVAE, so it generates no images; build it with VAR\(config, vqvae\)"
    ):
        VAR(var_config("saln0_l2n1")).generate([3], seeds=None)


def test_half_precision_generates(plain_var):
    """A bfloat16 transformer works with its float32 VQVAE, and its logits stay close."""
    exact = plain_var.generate(LABELS, seeds=None, keep_logits=True)
    rough = plain_var.bfloat16().generate(LABELS, seeds=None, forced=exact.tokens, keep_logits=True)
    assert {torch.float32} == {logits.dtype for logits in rough.logits}
    errors = torch.cat(rough.logits, 1) - torch.cat(exact.logits, 1)
    assert errors.std() < 0.1 * torch.cat(exact.logits, 1).std()


def test_maps_that_it_was_not_trained_with_are_refused(plain_var):
    """Patch sides other than those of the weights are named before generation begins."""
    plain_var.config = attrs.evolve(plain_var.config, patch_sides=(1, 2, 6))
    with pytest.raises(
        InputError, match=r"generate the maps 1x1 2x2 6x6, and was trained with maps of \(1, 4, 9, 16, 25, 36\)"
    ):
        plain_var.generate(LABELS, seeds=SEEDS)


def test_a_decoder_on_another_device_is_refused(make_var):
    """The error says where both are and what to do."""
    model = make_var("saln0_l2n1")
    model.vqvae.to("meta")
    with pytest.raises(InputError, match=r"the VAR is on cpu and its VQVAE on meta; move one of them with \.to\(\)"):
        model.generate([3], seeds=[1])
