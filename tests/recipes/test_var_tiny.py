"""The recipe of var-tiny: the model generates legible digits, and its training survives a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recipes.training import LoopOptions
from recipes.var_tiny.data import Digits
from recipes.var_tiny.measure import accuracy, draw_digits
from recipes.var_tiny.objectives import Noise, noisy_tokens, var_loss
from recipes.var_tiny.train import train_judge, train_var, train_vqvae
from scalekv_adapters.var import tiny
from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.generation import VAR
from scalekv_adapters.var.tiny.judge import DigitReader, load_reader
from scalekv_adapters.vqvae import VQVAE, VQVAEConfig

SIDES = (1, 2, 4, 16)
SMALL = {"codes": 16, "code_width": 4, "patch_sides": SIDES}


@pytest.fixture(scope="module")
def digits() -> Digits:
    source = torch.Generator().manual_seed(5)
    return Digits(images=torch.rand(20, 1, 32, 32, generator=source), labels=torch.arange(20) % 10)


def small_vqvae() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(VQVAEConfig(base_channels=32, multipliers=(1, 1), blocks=1, **SMALL))


def small_var() -> VAR:
    vqvae = small_vqvae().eval().requires_grad_(False)
    return VAR(VARConfig(depth=2, width=32, heads=2, num_classes=10, **SMALL), vqvae)


@pytest.mark.thorough
def test_the_judge_reads_what_the_full_cache_draws() -> None:
    var = tiny.load()
    images, labels = draw_digits(var, 4, tiny.SAMPLING)
    assert accuracy(load_reader(), images, labels) >= 0.95  # 500 of 500 with seeds 0 to 49, 40 of 40 here


def test_without_noise_the_transformer_reads_the_teacher_inputs(digits: Digits) -> None:
    vqvae, images = small_vqvae().eval(), digits.images[:3].expand(-1, 3, -1, -1)
    source = torch.Generator().manual_seed(0)
    read, answers = noisy_tokens(vqvae, images, len(SIDES), Noise(near=0, anywhere=0), source)
    tokens = vqvae.encode(images)
    assert torch.equal(answers, torch.cat(tokens, 1))
    torch.testing.assert_close(read, vqvae.teacher_inputs(tokens))


def test_a_prefix_is_learnt_as_within_the_whole(digits: Digits) -> None:
    """The losses of a prefix of maps and of the other maps sum to the loss of all: no map sees a later one."""
    var = small_var()
    labels, images = digits.labels[:3], digits.images[:3].expand(-1, 3, -1, -1)
    read, answers = noisy_tokens(var.vqvae, images, len(SIDES), Noise(), torch.Generator().manual_seed(0))
    logits = var(labels, read)
    losses = torch.nn.functional.cross_entropy(logits.mT, answers, reduction="none").mean(0)
    for scales in (3, 4):
        ends = [sum(s * s for s in SIDES[:k]) for k in range(scales + 1)]
        expected = sum(losses[a:b].sum() / s for a, b, s in zip(ends, ends[1:], SIDES, strict=False)) / sum(SIDES)
        got = var_loss(var, labels, read[:, : ends[-1] - 1], answers[:, : ends[-1]], scales, half=False)
        torch.testing.assert_close(got, expected)


@pytest.mark.thorough
@pytest.mark.parametrize("stage", ["judge", "vqvae", "var"])
def test_training_resumes_as_if_it_had_not_stopped(stage: str, digits: Digits, tmp_path: Path) -> None:
    make, train = {
        "judge": (lambda: DigitReader(width=8), train_judge),
        "vqvae": (small_vqvae, train_vqvae),
        "var": (small_var, train_var),
    }[stage]
    options = LoopOptions(steps=4, peak=1e-3, warmup=2, seed=3)
    models = []
    for stops in ((4,), (2, 4)):
        for stop in stops:
            torch.manual_seed(0)
            models.append(make())
            train(digits, models[-1], options, tmp_path / f"{stops[0]}.pt", stop_at=stop)
    straight, _, resumed = models
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    whole, parts = (torch.load(tmp_path / f"{n}.pt", weights_only=True)["average"] for n in (4, 2))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
