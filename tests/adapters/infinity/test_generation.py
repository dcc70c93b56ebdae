"""Generation of an Infinity with any weights: shapes, seeds, batches, sampling, guidance, forcing and refusals."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.templates import Canvas
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.errors import InputError

SEEDS = [1, 2, 3]
LENS = (5, 9, 5)


@pytest.fixture
def infinity(any_infinity) -> Infinity:
    """A small model of each kind with random weights."""
    return any_infinity


@pytest.fixture
def text(plain_text) -> PackedText:
    """Three prompts, of two lengths."""
    return plain_text(*LENS)


def one(text, image):
    """One prompt of a text."""
    starts = [sum(text.lens[:i]) for i in range(len(text.lens) + 1)]
    return PackedText(text.features[starts[image] : starts[image + 1]], [text.lens[image]])


def bits_of(generation, image):
    """All bits of one image, in order."""
    return torch.cat([tokens[image] for tokens in generation.tokens])


def test_shapes_and_ranges(infinity, text):
    """Images are RGB in [0, 1] of the canvas's shape, with one map per scale, and logits on request."""
    canvas, d = Canvas("4:3", "0.06M"), infinity.config.token_bits
    got = infinity.generate(text, seeds=SEEDS, canvas=canvas, keep_logits=True)
    assert (3, 3, *canvas.image_size(infinity.config.patch * infinity.vae.config.stride)) == tuple(got.images.shape)
    assert got.images.min() >= 0
    assert got.images.max() <= 1
    assert [(3, n, d) for n in canvas.schedule.tokens] == [tuple(tokens.shape) for tokens in got.tokens]
    assert [(3, n, 2 * d) for n in canvas.schedule.tokens] == [tuple(logits.shape) for logits in got.logits]
    assert infinity.generate(text, seeds=SEEDS).logits is None


def test_the_same_seeds_give_the_same_images(infinity, text):
    """Two runs are bit-equal; other seeds give other images of the same prompt."""
    first, second = (infinity.generate(text, seeds=SEEDS) for _ in range(2))
    assert torch.equal(first.images, second.images)
    prompt = one(text, 0)
    same = infinity.generate(prompt.followed_by(prompt), seeds=[1, 2])
    assert not torch.equal(bits_of(same, 0), bits_of(same, 1))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_image_does_not_depend_on_its_batch(infinity, text, guidance):
    """A prompt and a seed give the same image alone and beside prompts of other lengths."""
    options = {"guidance": guidance, "top_p": 0.97}
    batch = infinity.generate(text, seeds=SEEDS, **options)
    for i in range(3):
        alone = infinity.generate(one(text, i), seeds=SEEDS[i : i + 1], **options)
        assert torch.equal(bits_of(alone, 0), bits_of(batch, i))
        assert_close(alone.images[0], batch.images[i], rtol=0, atol=2e-4)


@pytest.mark.thorough
def test_the_global_generator_plays_no_part(infinity, text):
    """Torch's global generator is neither read nor advanced."""
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = infinity.generate(text, seeds=SEEDS)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first.images, infinity.generate(text, seeds=SEEDS).images)


@pytest.mark.thorough
def test_top_k_of_one_is_greedy(infinity, text):
    """With one candidate per bit the seed does not matter."""
    greedy = infinity.generate(text, seeds=None)
    assert torch.equal(greedy.images, infinity.generate(text, seeds=SEEDS, top_k=1).images)


def test_top_p_settles_certain_bits(infinity, text):
    """A value of probability 1 - top_p or less is never sampled."""
    drawn = infinity.generate(text, seeds=SEEDS, guidance=1, top_p=0.9, keep_logits=True)
    for logits, tokens in zip(drawn.logits, drawn.tokens, strict=True):
        probability = logits.unflatten(-1, (-1, 2)).softmax(-1).gather(-1, tokens.long()[..., None])
        assert probability.min() > 0.1 - 1e-6


def test_a_low_temperature_is_greedy(infinity, text):
    """The lower the temperature, the closer the choice to the likelier values."""
    greedy, cold = infinity.generate(text, seeds=None), infinity.generate(text, seeds=SEEDS, temperature=1e-5)
    assert torch.equal(bits_of(greedy, 0), bits_of(cold, 0))


def test_temperatures_may_differ_by_scale(infinity, text):
    """A list gives one temperature per scale: scales with a low one are greedy, the others are not."""
    greedy = infinity.generate(text, seeds=None)
    mixed = infinity.generate(text, seeds=SEEDS, temperature=[1e-5] * 3 + [1.0] * 4)
    assert [True] * 3 + [False] * 4 == [torch.equal(a, b) for a, b in zip(greedy.tokens, mixed.tokens, strict=True)]


class Watching(ConcatCache):
    """Records how many rows attention sees."""

    def __init__(self, schedule, rows):
        super().__init__(schedule)
        self.rows = rows

    def attend(self, layer, q, k, v, *, softmax_scale):
        self.rows.add(len(q))
        return super().attend(layer, q, k, v, softmax_scale=softmax_scale)


@pytest.mark.parametrize(("guidance", "rows"), [(1, 3), (0, 3), ([1] * 7, 3), (1.01, 6), ([1] * 6 + [3], 6)])
def test_no_guidance_runs_no_unconditioned_rows(infinity, text, guidance, rows):
    """With guidance 1 or 0 at every scale attention sees B rows, otherwise 2B."""
    seen = set()
    infinity.new_cache = lambda schedule: Watching(schedule, seen)
    infinity.generate(text, seeds=SEEDS, guidance=guidance)
    assert {rows} == seen


def test_guidance_may_differ_by_scale(infinity, text):
    """One strength equals a list of equal strengths; at strength 1 only the conditioned rows count."""
    how = {"seeds": None, "keep_logits": True}
    constant, listed = (infinity.generate(text, guidance=g, **how) for g in (3.0, [3.0] * 7))
    assert torch.equal(constant.images, listed.images)
    without = infinity.generate(text, guidance=1, **how)
    late = infinity.generate(text, guidance=[1] * 3 + [3] * 4, **how)
    for scale in range(3):
        assert_close(late.logits[scale], without.logits[scale], rtol=0, atol=1e-4)
    assert not torch.allclose(late.logits[3], without.logits[3], atol=1e-2)


def test_guidance_after_a_block_mixes_what_it_puts_out(infinity, text):
    """After the given block only, both halves continue with g * conditioned + (1 - g) * unconditioned."""
    inputs, outputs = [], []
    for block in infinity.blocks:
        block.register_forward_hook(lambda module, args, out: (inputs.append(args[0]), outputs.append(out))[1])
    infinity.generate(text, seeds=None, guidance=2.0, guidance_at=[-2])
    for scale in range(7):
        came, went = inputs[4 * scale : 4 * scale + 4], outputs[4 * scale : 4 * scale + 4]
        assert torch.equal(went[0], came[1])
        assert torch.equal(went[1], came[2])
        mix = 2.0 * went[2][:3] - went[2][3:]
        assert_close(came[3], mix.repeat(2, 1, 1), rtol=0, atol=1e-4)


def test_guidance_after_a_block_differs_from_that_on_logits(infinity, text):
    """Guidance on logits and after a block differ, and can be combined."""
    how = {"seeds": None, "guidance": 3.0, "keep_logits": True}
    drawn = [infinity.generate(text, guidance_at=places, **how).logits[0] for places in ([0], [-2], [0, -2])]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(drawn[i], drawn[j], atol=1e-3)


def test_forcing_its_own_bits_changes_nothing(infinity, text):
    """Forced with its own bits, a model makes the same choices and the same image."""
    free = infinity.generate(text, seeds=SEEDS)
    for scales in (2, 7):
        forced = infinity.generate(text, seeds=SEEDS, forced=free.tokens[:scales])
        assert torch.equal(free.images, forced.images)
        assert all(torch.equal(a, b) for a, b in zip(free.choices, forced.choices, strict=True))


def test_forced_bits_go_in_and_choices_are_still_reported(infinity, text):
    """The loop uses the forced bits, and the generation also reports what the model would have chosen."""
    free = infinity.generate(text, seeds=SEEDS)
    other = [~free.tokens[0]]
    got = infinity.generate(text, seeds=SEEDS, forced=other)
    assert torch.equal(other[0], got.tokens[0])
    assert torch.equal(free.choices[0], got.choices[0])
    assert torch.equal(got.tokens[1], got.choices[1])
    assert not torch.equal(got.tokens[1], free.tokens[1])


def test_on_scale_is_told_every_scale(infinity, text):
    """The callback runs once per scale, in order, with the sum from which the image so far is decoded."""
    steps = []
    got = infinity.generate(text, seeds=SEEDS, on_scale=steps.append)
    assert list(range(7)) == [step.scale for step in steps]
    assert torch.equal(got.images, (infinity.vae.decode(steps[-1].total) + 1) / 2)


def test_another_canvas_is_another_schedule(infinity, text):
    """The cache is made for the requested canvas, not the model's default; the default can be changed."""
    made = []

    def new_cache(schedule):
        made.append(schedule)
        return ConcatCache(schedule)

    infinity.new_cache = new_cache
    infinity.generate(text, seeds=None)
    infinity.generate(text, seeds=None, canvas=Canvas("1:3", "0.06M"))
    infinity.canvas = Canvas("2:1", "0.06M")
    infinity.generate(text, seeds=None)
    assert [Canvas(aspect, "0.06M").schedule for aspect in ("1:1", "1:3", "2:1")] == made


class Closing(ConcatCache):
    """Records whether it was closed."""

    closed = False

    def close(self):
        super().close()
        self.closed = True


def test_an_exception_closes_the_cache(infinity, text):
    """An interrupted generation leaves nothing behind, and the next one is correct."""

    def interrupt(step):
        if step.scale == 2:
            raise KeyboardInterrupt

    before, made = infinity.generate(text, seeds=SEEDS), []

    def new_cache(schedule):
        made.append(Closing(schedule))
        return made[-1]

    infinity.new_cache = new_cache
    with pytest.raises(KeyboardInterrupt):
        infinity.generate(text, seeds=SEEDS, on_scale=interrupt)
    assert made[0].closed
    assert torch.equal(before.images, infinity.generate(text, seeds=SEEDS).images)
    assert made[1].closed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, "one seed per image: 3 images, got 1 seeds"),
        ({"guidance": 0.5}, r"guidance of 1 or more \(or 0 to generate without guidance\); got 0.5"),
        ({"guidance": float("nan")}, "guidance of 1 or more .*; got nan"),
        ({"guidance": [3.0] * 6}, "one guidance for all 7 scales or one per scale; got 6"),
        ({"guidance_at": [1]}, r"on the logits \(0\) or after a block \(-1 to -3\); got 1"),
        ({"guidance_at": [-4]}, r"on the logits \(0\) or after a block \(-1 to -3\); got -4"),
        ({"guidance_at": []}, "at least one place to apply guidance at; got none"),
        ({"top_k": -5}, r"sampling needs top_k at least 0, whole \(0 lets all compete\); got -5"),
        ({"top_p": 1.5}, r"sampling needs top_p from 0 to 1 \(0 lets all compete\); got 1.5"),
        ({"temperature": 0.0}, "temperatures above 0; got 0.0"),
        ({"temperature": [1.0] * 8}, "one temperature for all 7 scales or one per scale; got 8"),
        ({"forced": [torch.zeros(3, 1, 6, dtype=torch.bool)] * 8}, "at most 7 scales, got 8"),
        (
            {"forced": [torch.zeros(3, 4, 6, dtype=torch.bool)]},
            r"scale 0 to be bool \(3, 1, 6\), got torch.bool \(3, 4, 6\)",
        ),
        ({"forced": [torch.zeros(3, 1, 6)]}, r"bool \(3, 1, 6\), got torch.float32 \(3, 1, 6\)"),
    ],
)
def test_what_does_not_fit_is_refused(make_infinity, text, options, message):
    """Inputs of wrong shape end in one line with what was wanted and what was given."""
    model = make_infinity("small")
    model.new_cache = None
    with pytest.raises(InputError, match=message):
        model.generate(text, **{"seeds": SEEDS, **options})


def test_texts_that_do_not_fit_are_refused(infinity, plain_text):
    """An empty prompt, one of another encoder, and one that is too long are refused."""
    with pytest.raises(InputError, match=r"at least one text token each; got lengths \[0\]"):
        infinity.generate(PackedText.pack([torch.zeros(0, 256)]), seeds=None)
    with pytest.raises(InputError, match="at least one text token each; got none"):
        PackedText.pack([])
    with pytest.raises(InputError, match=r"of lengths \[2, 3\] needs features \(5, C\); got \(4, 8\)"):
        PackedText(torch.zeros(4, 8), [2, 3])
    with pytest.raises(InputError, match=r"text features of 256 channels; got \(3, 8\)"):
        infinity.generate(plain_text(3, channels=8), seeds=None)
    with pytest.raises(InputError, match="prompts of at most 16 text tokens; got one of 17"):
        infinity.generate(plain_text(17), seeds=None)


def test_an_infinity_without_vae_draws_nothing(infinity, text):
    """The error says how to give it a VAE."""
    with pytest.raises(
        InputError, match=r"has no VAE, so it generates no images; build it with Infinity\(config, vae\)"
    ):
        Infinity(infinity.config).generate(text, seeds=None)


@pytest.mark.parametrize(
    ("prompts", "guidance", "message"),
    [
        (1, 1.0, "a negative prompt by guidance, which is off; set guidance above 1"),
        (2, 3.0, "one negative prompt for each of 1 prompts; got 2"),
    ],
)
def test_negative_prompts_that_do_not_fit_are_refused(infinity, plain_text, prompts, guidance, message):
    """Without guidance they would have no effect."""
    features = plain_text(3).features
    with pytest.raises(InputError, match=message):
        infinity.generate(
            PackedText.pack([features]), negative=PackedText.pack([features] * prompts), seeds=None,
            guidance=guidance,
        )  # fmt: skip
