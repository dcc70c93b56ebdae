"""The recipe of infinity-tiny: its labels and losses, its measurement, and training that resumes bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from recipes.infinity_tiny.measure import draw, held_by_task, questions
from recipes.infinity_tiny.objectives import Lesson, label, lesson_loss, map_losses
from recipes.infinity_tiny.start import start_weights
from recipes.infinity_tiny.train import muon_and_adamw, train_infinity, train_vae
from recipes.training import LoopOptions
from scalekv_adapters.infinity import tiny
from scalekv_adapters.infinity.bits import grid_of, to_tokens
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.tiny.captions import TASKS, parse
from scalekv_adapters.infinity.tiny.network import SQUARE, TinyInfinity
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_core import load_model
from scalekv_core.errors import MissingExtra

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


def test_without_flips_labels_are_the_vaes_bits() -> None:
    """Without flips the labels are the VAE's own bits, and the transformer reads its teacher inputs."""
    vae, images = small_vae(), torch.rand(2, 3, 32, 32, generator=source()) * 2 - 1
    features, grids = vae.encode_features(images), ((1, 1), (2, 2), (4, 4), (8, 8))
    labels = label(features.detach(), grids, torch.zeros(2, 1, 1, 1), source())
    bits = vae.encode(images, grids)
    assert all(torch.equal(a, b) for a, b in zip(labels.bits, bits, strict=True))
    assert_close(labels.read(), vae.teacher_inputs(bits))


def test_after_a_flip_the_labels_put_it_right() -> None:
    """Flipped bits enter the sum, and the next labels are the signs of the residual."""
    features, grids = torch.randn(2, 4, 4, 4, generator=source()), ((1, 1), (2, 2), (4, 4))
    labels = label(features, grids, torch.full((2, 1, 1, 1), 0.5), source())
    for before, bits in zip(labels.sums, labels.bits[1:], strict=False):
        missing = torch.nn.functional.adaptive_avg_pool2d(features - before, grid_of(bits))
        assert torch.equal(missing > 0, bits)


def test_map_by_map_is_teacher_forcing() -> None:
    """The losses equal the model's own masked pass; a prefix of maps has the losses of those maps in the whole."""
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


@pytest.mark.thorough
@pytest.mark.parametrize("stage", ["vae", "infinity"])
def test_training_resumes_as_if_it_had_not_stopped(stage: str, tmp_path: Path) -> None:
    """Four steps in one run, and two steps, a stop and two more, give equal bits."""
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
    """Training needs Muon; without it one line names the first version of PyTorch that has it."""
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(MissingExtra, match=r"needs PyTorch 2\.9 or newer"):
        muon_and_adamw(small_infinity(), LoopOptions(steps=1, peak=1e-3))


def test_the_measurement_asks_the_same_every_time() -> None:
    """Every run measures the same captions, equally many per task, each read back as itself."""
    asked = questions(3)
    assert asked == questions(3)
    assert dict.fromkeys(TASKS, 3) == {t: sum(q.caption.task == t for q in asked) for t in TASKS}
    assert all(parse(str(question.caption)) == question.caption for question in asked)


@pytest.mark.thorough
def test_pictures_show_their_captions(model) -> None:
    """With the full cache at least 90 % of the images show their captions."""
    asked = questions(3)
    held = held_by_task(asked, draw(tiny.load(), asked, tiny.SAMPLING))
    assert held["all"] >= 0.9
    assert set(held) == {*TASKS, "all"}
