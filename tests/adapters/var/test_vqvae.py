"""The VQVAE computes the same as the official one, forwards, backwards and in training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from scalekv_adapters.vqvae import SIDES_256, VQVAE, VQVAEConfig, nearest_code, residual_conv_index
from scalekv_core.errors import InputError

PHI = json.loads((Path(__file__).parents[2] / "data/golden/var/phi_index.json").read_text())
SCALES = range(6)


def test_encoder_features_are_those_recorded(make_vqvae, golden):
    """Encoder output and features agree with the official ones."""
    vqvae, want = make_vqvae(), golden("vae")
    assert_close(vqvae.encoder(want["in.image"]), want["out.enc_out"], rtol=0, atol=2e-5)
    assert_close(vqvae.encode_features(want["in.image"]), want["out.f"], rtol=0, atol=2e-5)


def test_encoding_an_image_gives_the_recorded_tokens(make_vqvae, golden):
    """All token maps are exactly the official ones."""
    want = golden("vae")
    tokens = make_vqvae().encode(want["in.image"])
    assert [want[f"out.idx_s{k}"].tolist() for k in SCALES] == [t.tolist() for t in tokens]


def test_sums_and_reconstructions_are_those_recorded(make_vqvae, golden):
    """After every scale f_hat and its clamped decoding agree; after the last one the raw decoding too."""
    vqvae, want = make_vqvae(), golden("vae")
    f_hats = vqvae.f_hats([want[f"out.idx_s{k}"] for k in SCALES])
    for k, f_hat in enumerate(f_hats):
        assert_close(f_hat, want[f"out.fhat_s{k}"], rtol=0, atol=2e-5)
        assert_close(vqvae.decode(f_hat), want[f"out.rec_s{k}"], rtol=0, atol=5e-5)
    assert_close(vqvae.decode_features(f_hats[-1]), want["out.decoder_raw"], rtol=0, atol=5e-5)
    assert_close(vqvae.decode(f_hats[-1]), want["out.rec_last"], rtol=0, atol=5e-5)


def test_teacher_inputs_are_those_recorded(make_vqvae, golden):
    """The transformer's training input is the official one."""
    want = golden("vae")
    inputs = make_vqvae().teacher_inputs([want[f"out.idx_s{k}"] for k in SCALES])
    assert_close(inputs, want["out.var_input"], rtol=0, atol=2e-5)


def test_ten_official_scales_are_those_recorded(make_vqvae, golden):
    """With the published sides, where two scales lie exactly between two convolutions, sums, inputs and image agree."""
    vqvae, want = make_vqvae(SIDES_256), golden("vae_ten_scales")
    f_hats = vqvae.f_hats([want[f"idx_s{k}"].long() for k in range(10)])
    for k in (1, 2, 6, 7, 9):
        assert_close(f_hats[k], want[f"fhat_s{k}"], rtol=0, atol=2e-5)
    for k in range(9):
        assert_close(vqvae.next_input(f_hats[k], k), want[f"next_s{k}"].flatten(2).mT, rtol=0, atol=2e-5)
    assert_close(vqvae.decode(f_hats[-1]), want["image"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("scales", [6, 10])
def test_shared_convolutions_are_chosen_as_recorded(scales):
    """Every scale uses the residual convolution that the official code uses."""
    assert PHI[f"S={scales}"] == [residual_conv_index(k, scales) for k in range(scales)]


def test_published_sizes_have_the_official_names_and_shapes(manifest):
    """The default configuration has the names and shapes of the published VQVAE."""
    want = manifest("var_vqvae")
    with torch.device("meta"):
        vqvae = VQVAE(VQVAEConfig())
    assert want["params"] == {name: list(value.shape) for name, value in vqvae.named_parameters()}
    buffers = {name: {"shape": list(b.shape), "dtype": str(b.dtype)[6:]} for name, b in vqvae.named_buffers()}
    assert want["buffers"] == buffers
    assert want["n_params"] == sum(value.numel() for value in vqvae.parameters())


def test_every_parameter_gets_a_gradient(make_vqvae, golden):
    """A straight-through training step reaches the encoder, the codes, every used convolution, and the decoder."""
    vqvae = make_vqvae().requires_grad_(True)
    f = vqvae.encode_features(golden("vae")["in.image"])
    f_hat = vqvae.f_hats(vqvae.quantize_features(f))[-1]
    straight_through = f + (f_hat - f).detach()
    loss = vqvae.decode_features(straight_through).square().mean() + (f_hat - f.detach()).square().mean()
    loss.backward()
    assert [name for name, value in vqvae.named_parameters() if value.grad is None] == []


def test_quantising_changes_no_input(make_vqvae, golden):
    """Features and sums given as input are not written to."""
    vqvae, f = make_vqvae(), golden("vae")["out.f"]
    before = f.clone()
    tokens = vqvae.quantize_features(f)
    vqvae.add_scale(f, tokens[0], 0)
    assert torch.equal(before, f)


def test_nearest_code_is_the_euclidean_one():
    """The short form of the distance picks the same code as the full one."""
    generator = torch.Generator().manual_seed(0)
    vectors, codes = torch.randn(50, 8, generator=generator), torch.randn(64, 8, generator=generator)
    assert torch.cdist(vectors, codes).argmin(1).tolist() == nearest_code(vectors, codes).tolist()


def test_wrong_sizes_are_refused(make_vqvae):
    """Sides that do not rise, channels that groups do not divide, and images of another size are named."""
    with pytest.raises(InputError, match=r"patch_sides must be two or more rising sides, got \(1, 3, 2\)"):
        VQVAEConfig(patch_sides=(1, 3, 2))
    with pytest.raises(InputError, match=r"multiple of 32 \(group norm\), got 48"):
        VQVAEConfig(base_channels=48)
    with pytest.raises(InputError, match=r"needs images \(B, 3, 12, 12\), got \(2, 3, 16, 16\)"):
        make_vqvae().encode(torch.zeros(2, 3, 16, 16))
    with pytest.raises(InputError, match="1 to 6 scales, got 0"):
        make_vqvae().f_hats([])
