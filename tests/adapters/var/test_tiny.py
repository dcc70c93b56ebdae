"""var-tiny: it loads, it is small, and its seeds give different digits."""

from __future__ import annotations

import importlib.resources

import torch

from scalekv_adapters.var import tiny


def test_the_weights_are_small_and_say_what_they_are() -> None:
    files = [f for f in importlib.resources.files(tiny).iterdir() if f.name.endswith(".safetensors")]
    names = ["judge.safetensors", "profile.safetensors", "var.safetensors", "vqvae.safetensors"]
    assert sorted(f.name for f in files) == names
    assert sum(len(f.read_bytes()) for f in files) <= 8_000_000


def test_load_gives_the_ten_official_scales_in_float32() -> None:
    var = tiny.load()
    vqvae = var.vqvae
    assert var.config.patch_sides == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    assert {p.dtype for p in (*var.parameters(), *vqvae.parameters())} == {torch.float32}
    assert not any(p.requires_grad for p in (*var.parameters(), *vqvae.parameters()))


def test_load_casts_the_transformer() -> None:
    var = tiny.load(dtype=torch.bfloat16)
    assert var.head.weight.dtype == torch.bfloat16
    assert var.vqvae.quantize.embedding.weight.dtype == torch.float32


def test_different_seeds_draw_different_digits() -> None:
    var = tiny.load()
    images = var.generate([3] * 4, seeds=range(4), guidance=2.0).images
    distances = (images[:, None] - images[None]).square().mean((2, 3, 4))
    assert distances[~torch.eye(4, dtype=torch.bool)].min() > 0.01
