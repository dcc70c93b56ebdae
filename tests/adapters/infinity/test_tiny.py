"""infinity-tiny: what ships, how it is asked, and that its training goes on as if it had not stopped."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from scalekv_adapters.infinity import tiny
from scalekv_adapters.infinity.bits import grid_of, to_tokens
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.tiny.captions import TASKS, parse
from scalekv_adapters.infinity.tiny.measure import draw, held_by_task, questions
from scalekv_adapters.infinity.tiny.network import ASPECTS, SQUARE, TinyInfinity, start_weights
from scalekv_adapters.infinity.tiny.objectives import Lesson, label, lesson_loss, map_losses
from scalekv_adapters.infinity.tiny.train import muon_and_adamw, train_infinity, train_vae
from scalekv_adapters.infinity.tiny.words import WordEncoder
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_adapters.training import LoopOptions
from scalekv_core import load_model
from scalekv_core.errors import InputError, MissingExtra

LESSON = Lesson(early=2, whole=1)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_vae() -> BSQVAE:
    torch.manual_seed(0)
    return BSQVAE(BSQVAEConfig(bits=4, base_channels=32, multipliers=(1, 1), blocks=1, fold=2))


def small_infinity() -> TinyInfinity:
    torch.manual_seed(0)
    sizes = InfinityConfig(depth=2, width=32, heads=2, bits=4, text_channels=32, text_maxlen=16, mlp_ratio=8)
    model = TinyInfinity(sizes, text_depth=1)
    start_weights(model.transformer)
    return model


@pytest.fixture(scope="module")
def model():
    return load_model("infinity-tiny")


def test_the_weights_are_small_and_say_what_they_are() -> None:
    """At most 12 MB in all."""
    files = [f for f in importlib.resources.files(tiny).iterdir() if f.name.endswith(".safetensors")]
    assert {"infinity.safetensors", "vae.safetensors", "profile-1x1.safetensors"} <= {f.name for f in files}
    assert sum(len(f.read_bytes()) for f in files) <= 12_000_000


def test_load_gives_the_official_schedule_in_float32() -> None:
    """Seven maps of the published 0.06M schedule, 64 x 64 pixels, everything frozen."""
    loaded = tiny.load()
    assert loaded.transformer.canvas.schedule.total == 521
    assert loaded.transformer.canvas.image_size(loaded.transformer.vae.config.stride) == (64, 64)
    parameters = [*loaded.parameters(), *loaded.transformer.vae.parameters()]
    assert {p.dtype for p in parameters} == {torch.float32}
    assert not any(p.requires_grad for p in parameters)


def test_load_casts_the_transformer_only() -> None:
    """VAE and text encoder stay in float32."""
    loaded = tiny.load(dtype=torch.bfloat16)
    assert loaded.transformer.dtype == torch.bfloat16
    assert {loaded.text.words.weight.dtype, loaded.transformer.vae.dtype} == {torch.float32}


@pytest.mark.parametrize("aspect", ASPECTS)
def test_every_aspect_ratio_it_learnt_is_drawn(model, aspect: str) -> None:
    """Square, upright and lying pictures have the published schedules of their aspect ratio, and a profile each."""
    model.set_shape(aspect=aspect)
    images = model.generate(["a red circle"], seeds=[0]).images
    height, width = model.schedule.maps[-1][-2:]
    assert (1, 3, 4 * height, 4 * width) == images.shape
    assert model.profile is not None
    assert model.profile.schedule == model.schedule
    model.set_shape(aspect="1:1")


def test_a_picture_depends_on_its_own_prompt_and_seed(model) -> None:
    """Prompts of different lengths at once draw what each draws alone, and another seed draws another picture."""
    prompts = ["a red circle left of a blue square", "two triangles", "a red circle left of a blue square"]
    together = model.generate(prompts, seeds=[3, 4, 5]).images
    for i, seed in enumerate([3, 4, 5]):
        assert_close(together[i : i + 1], model.generate(prompts[i : i + 1], seeds=[seed]).images, rtol=0, atol=1e-4)
    assert (together[0] - together[2]).square().mean() > 1e-4


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("a purple circle", "unknown word 'purple'; the words are a, two"),
        ("", "says nothing"),
        ("circle red", "of no form"),
    ],
)
def test_what_it_cannot_read_is_refused(model, prompt: str, why: str) -> None:
    """One line that names the words it knows, or shows what a caption looks like."""
    with pytest.raises(InputError, match=why):
        model.generate([prompt], seeds=[0])


def test_weights_are_not_taken() -> None:
    """It ships with its own."""
    with pytest.raises(InputError, match="ships with its weights; leave out --weights"):
        load_model("infinity-tiny", weights=Path("x"))


def test_words_do_not_depend_on_their_batch() -> None:
    """A short caption beside a long one has the features that it has alone."""
    torch.manual_seed(0)
    encoder = WordEncoder(32)
    captions = ["a circle", "a red circle left of a blue square", "three red squares"]
    for caption, features in zip(captions, encoder.encode(captions), strict=True):
        assert_close(features, encoder.encode([caption])[0])


def test_the_same_shapes_in_other_colours_read_differently() -> None:
    """A noun knows its own colour: exchanging the colours changes the features of both nouns."""
    torch.manual_seed(0)
    one, other = WordEncoder(32).encode(["a red circle and a blue square", "a blue circle and a red square"])
    assert (one[2] - other[2]).abs().max() > 1e-3
    assert (one[6] - other[6]).abs().max() > 1e-3


def test_without_flips_labels_are_the_vaes_bits() -> None:
    """The labels are the VAE's own bits, and the transformer reads its teacher inputs."""
    vae, images = small_vae(), torch.rand(2, 3, 32, 32, generator=source()) * 2 - 1
    features, grids = vae.encode_features(images), ((1, 1), (2, 2), (4, 4), (8, 8))
    labels = label(features.detach(), grids, torch.zeros(2, 1, 1, 1), source())
    bits = vae.encode(images, grids)
    assert all(torch.equal(a, b) for a, b in zip(labels.bits, bits, strict=True))
    assert_close(labels.read(), vae.teacher_inputs(bits))


def test_after_a_flip_the_labels_put_it_right() -> None:
    """What is flipped enters the sum, and the next labels are the signs of what is then missing."""
    features, grids = torch.randn(2, 4, 4, 4, generator=source()), ((1, 1), (2, 2), (4, 4))
    labels = label(features, grids, torch.full((2, 1, 1, 1), 0.5), source())
    for before, bits in zip(labels.sums, labels.bits[1:], strict=False):
        missing = torch.nn.functional.adaptive_avg_pool2d(features - before, grid_of(bits))
        assert torch.equal(missing > 0, bits)


def test_map_by_map_is_teacher_forcing() -> None:
    """The losses are those of the model's own masked pass, and a prefix has those of its maps within the whole."""
    model, features = small_infinity().eval(), torch.randn(2, 4, 16, 16, generator=source())
    labels = label(features, SQUARE.grids(), torch.zeros(2, 1, 1, 1), source())
    text = model.text(["a circle", "two red squares"])
    losses = map_losses(model.transformer, text, labels, SQUARE)
    logits = model.transformer(text, labels.read(), canvas=SQUARE)
    each = torch.nn.functional.cross_entropy(
        logits.view(-1, 2), labels.tokens().long().flatten(), reduction="none"
    ).view(2, 521, 4)
    assert_close(losses, torch.stack([part.mean() for part in each.split(SQUARE.schedule.tokens, dim=1)]))
    early = label(features, SQUARE.grids()[:3], torch.zeros(2, 1, 1, 1), source())
    assert_close(losses[:3], map_losses(model.transformer, text, early, SQUARE))
    assert torch.equal(to_tokens(early.bits[2]), labels.tokens()[:, 5:21])


def test_every_weight_learns() -> None:
    """One step's gradient reaches the text encoder and the transformer, apart from buffers."""
    model, vae = small_infinity(), small_vae().eval().requires_grad_(False)
    lesson_loss(model, vae, Lesson(early=8, whole=2, drop=0.5), source()).backward()
    unused = {"lvl_embed"}  # rows of later maps than this size has
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [] == [name for name in still if not any(part in name for part in unused)]


@pytest.mark.parametrize("stage", ["vae", "infinity"])
def test_training_resumes_as_if_it_had_not_stopped(stage: str, tmp_path: Path) -> None:
    """Four steps at once, and two steps, a stop and two more, give equal bits."""
    options = LoopOptions(steps=4, peak=1e-3, warmup=2, seed=3)
    models = []
    for stops in ((4,), (2, 4)):
        for stop in stops:
            path = tmp_path / f"{stops[0]}.pt"
            if stage == "vae":
                models.append(small_vae())
                train_vae(models[-1], options, path, batch=2, stop_at=stop)
            else:
                models.append(small_infinity())
                vae = small_vae().eval().requires_grad_(False)
                train_infinity(models[-1], vae, options, path, lesson=LESSON, stop_at=stop)
    straight, _, resumed = models
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    whole, parts = (torch.load(tmp_path / f"{n}.pt", weights_only=True)["average"] for n in (4, 2))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_an_old_pytorch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training wants Muon; without it one line says since when there is one."""
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(MissingExtra, match=r"wants PyTorch 2\.9 or newer"):
        muon_and_adamw(small_infinity(), LoopOptions(steps=1, peak=1e-3))


def test_the_measurement_asks_the_same_every_time() -> None:
    """As many captions of every task, the same for everybody, each read back as itself."""
    asked = questions(3)
    assert asked == questions(3)
    assert dict.fromkeys(TASKS, 3) == {t: sum(q.caption.task == t for q in asked) for t in TASKS}
    assert all(parse(str(question.caption)) == question.caption for question in asked)


def test_pictures_show_their_captions(model) -> None:
    """With the full cache, of every task; 200 of 200 with 40 captions of each."""
    asked = questions(3)
    held = held_by_task(asked, draw(tiny.load(), asked, tiny.SAMPLING))
    assert held["all"] >= 0.9
    assert set(held) == {*TASKS, "all"}


def test_no_prompt_means_no_prompt() -> None:
    """A dropped caption is replaced by the learnt stand-in, feature by feature."""
    model = small_infinity()
    text = PackedText.pack([torch.randn(3, 32), torch.randn(2, 32)])
    dropped = model.transformer.with_dropped(text, torch.tensor([True, False]), None)
    assert_close(dropped.features[:3], model.transformer.cfg_uncond[:3])
    assert_close(dropped.features[3:], text.features[3:])
