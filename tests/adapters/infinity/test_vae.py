"""The BSQ-VAE computes the same as the official one, forwards, backwards and in training."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.testing import assert_close

from scalekv_adapters.infinity.bits import codes_of, on_grid, to_bits, to_tokens
from scalekv_adapters.infinity.vae import BSQVAE, PUBLISHED, BSQVAEConfig
from scalekv_core.errors import CheckpointError, InputError, UnknownName

DATA = Path(__file__).parents[2] / "data"
CASES = [("like2b", "sq"), ("like2b", "ns"), ("like8b", "ns")]
PATCH = {"like2b": 1, "like8b": 2}
GRIDS = ((1, 1), (2, 2), (4, 4))


@cache
def recorded(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a golden file, and what its header says."""
    with safe_open(DATA / "golden" / "infinity" / f"{name}_vae.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 (not a mapping)


def grids_of(name: str, shape: str) -> tuple[tuple[int, int], ...]:
    schedules = json.loads(recorded(name)[1]["schedules"])
    return tuple((h * PATCH[name], w * PATCH[name]) for _, h, w in schedules[shape])


def wanted_bits(name: str, shape: str) -> list[Tensor]:
    """The recorded bits (B, d, h, w) of every scale."""
    want = recorded(name)[0]
    return [want[f"{shape}.bits_s{k}"].squeeze(1).permute(0, 3, 1, 2).bool() for k in range(7)]


def golden_vae(name: str) -> BSQVAE:
    state = {key.removeprefix("sd."): t for key, t in recorded(name)[0].items() if key.startswith("sd.")}
    vae = BSQVAE(BSQVAEConfig.of_state(state))
    vae.load_state_dict(state, strict=True)
    return vae.eval().requires_grad_(False)


def small_vae(**sizes: int) -> BSQVAE:
    torch.manual_seed(0)
    return BSQVAE(BSQVAEConfig(**{"bits": 4, "base_channels": 32, "multipliers": (1, 1), "blocks": 1} | sizes))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_features_latents_and_images_are_those_recorded(name, shape):
    """Encoder output, summed codes and the decoded image agree with the official ones."""
    vae, want = golden_vae(name), recorded(name)[0]
    features = vae.encode_features(want[f"in.image_{shape}"])
    assert_close(features, want[f"{shape}.h"], rtol=0, atol=2e-5)
    bits = vae.encode(want[f"in.image_{shape}"], grids_of(name, shape))
    latents = vae.sums(bits, grids_of(name, shape)[-1])[-1]
    assert_close(latents, want[f"{shape}.z"], rtol=0, atol=2e-5)
    assert_close(vae.decode(want[f"{shape}.z"]), want[f"{shape}.decoded"], rtol=0, atol=2e-4)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_encoding_an_image_gives_the_recorded_bits(name, shape):
    """The bits of all scales are exactly the official ones, square or not, one image or two."""
    bits = golden_vae(name).encode(recorded(name)[0][f"in.image_{shape}"], grids_of(name, shape))
    for got, want in zip(bits, wanted_bits(name, shape), strict=True):
        assert torch.equal(want, got)


def test_labels_of_patches_are_those_recorded():
    """With spatial patchify a token's label holds the bits of 2 x 2 positions in the official order."""
    for scale, bits in enumerate(wanted_bits("like8b", "ns")):
        label = recorded("like8b")[0][f"ns.gt_s{scale}"].bool()
        assert torch.equal(label, to_tokens(bits, 2))
        assert torch.equal(bits, to_bits(label, tuple(bits.shape[-2:]), 2))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_official_names_and_shapes(name):
    """Published VAEs have the official names and shapes, from which their sizes are read."""
    want = json.loads((DATA / "manifests" / f"{name.replace('-', '_')}.json").read_text())
    with torch.device("meta"):
        vae = BSQVAE(BSQVAEConfig.published(name))
    assert want["params"] == {key: list(value.shape) for key, value in vae.named_parameters()}
    named = vae.named_buffers(remove_duplicate=False)
    assert want["buffers"] == {key: {"shape": list(b.shape), "dtype": str(b.dtype)[6:]} for key, b in named}
    assert want["n_params"] == sum(value.numel() for value in vae.parameters())
    assert vae.config == BSQVAEConfig.of_state(vae.state_dict())
    assert want["config"]["patch_size"] == vae.config.stride


def test_the_mask_of_the_checkpoints_is_rebuilt():
    """A VAE built without a checkpoint has the powers of two that checkpoints store."""
    state = golden_vae("like8b").state_dict()
    assert state["quantizer.lfq.mask"].tolist() == BSQVAE(BSQVAEConfig(bits=14)).quantizer.lfq.mask.tolist()


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_signs(dtype):
    """In half precision features differ by rounding only, sums stay float32, and images come in the weights' dtype."""
    vae, want = golden_vae("like2b").to(dtype), recorded("like2b")[0]
    features = vae.encode_features(want["in.image_sq"])
    spread = want["sq.h"].std()
    assert (features - want["sq.h"]).abs().mean() < 0.02 * spread
    bits = vae.encode(want["in.image_sq"], grids_of("like2b", "sq"))
    latents = vae.sums(bits, (16, 16))[-1]
    assert (latents.dtype, vae.decode(latents).dtype) == (torch.float32, dtype)
    assert (vae.decode(want["sq.z"]).float() - want["sq.decoded"]).abs().mean() < 0.02


def test_the_next_input_is_the_bilinear_sum():
    """The input of scale k + 1 is the sum after scale k, resized to its grid."""
    bits = wanted_bits("like8b", "ns")
    vae = golden_vae("like8b")
    read = vae.teacher_inputs(bits, patch=2)
    ends = [sum(b.shape[-1] * b.shape[-2] // 4 for b in bits[1 : k + 1]) for k in range(len(bits))]
    sums = vae.sums(bits, (32, 40))
    for k, (start, end) in enumerate(pairwise(ends)):
        assert_close(read[:, start:end], to_tokens(on_grid(sums[k], tuple(bits[k + 1].shape[-2:])), 2))


def test_images_do_not_depend_on_their_batch():
    """Two images in a batch give the bits and images that each gives alone."""
    vae, images, grids = golden_vae("like2b"), recorded("like2b")[0]["in.image_sq"], grids_of("like2b", "sq")
    together = vae.encode(images, grids)
    for i in range(2):
        for both, one in zip(together, vae.encode(images[i : i + 1], grids), strict=True):
            assert torch.equal(both[i : i + 1], one)


def test_every_parameter_gets_a_gradient():
    """A straight-through training step reaches every parameter of encoder and decoder, and folded pixels."""
    vae = small_vae(fold=2)
    features = vae.encode_features(torch.rand(2, 3, 16, 16) * 2 - 1)
    latents = vae.sums(vae.quantize_features(features, GRIDS), GRIDS[-1])[-1]
    vae.decode_features(features + (latents - features).detach()).square().mean().backward()
    assert [name for name, value in vae.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_folded_pixels_are_recognised_and_change_the_stride():
    """Folding two pixels a side doubles the stride; the sizes are read off the checkpoint."""
    vae = small_vae(fold=2)
    assert (vae.config.stride, vae.config) == (4, BSQVAEConfig.of_state(vae.state_dict()))
    assert vae.decode(torch.zeros(1, 4, 3, 5)).shape == (1, 3, 12, 20)


def test_codes_have_length_one_and_the_sign_of_their_bit():
    """A set bit is the positive corner, and every code lies on the unit sphere."""
    bits = torch.rand(2, 16, 3, 4) < 0.5
    codes = codes_of(bits)
    assert torch.equal(codes > 0, bits)
    assert_close(codes.norm(dim=1), torch.ones(2, 3, 4))


def test_wrong_sizes_are_refused():
    """Images that the stride does not divide, unfit grids and impossible sizes end in one line."""
    vae = small_vae()
    with pytest.raises(InputError, match="multiples of 2 pixels, got 7 x 8"):
        vae.encode(torch.zeros(1, 3, 7, 8), GRIDS)
    with pytest.raises(InputError, match=r"needs images \(B, 3, H, W\), got \(1, 1, 8, 8\)"):
        vae.encode(torch.zeros(1, 1, 8, 8), GRIDS)
    with pytest.raises(InputError, match="grow to 4 x 4, got 1 x 1, 2 x 2"):
        vae.encode(torch.zeros(1, 3, 8, 8), GRIDS[:2])
    with pytest.raises(InputError, match="grow to 4 x 4, got 2 x 2, 1 x 1, 4 x 4"):
        vae.encode(torch.zeros(1, 3, 8, 8), ((2, 2), (1, 1), (4, 4)))
    with pytest.raises(InputError, match="base_channels must be a multiple of 32"):
        BSQVAEConfig(base_channels=48)
    with pytest.raises(InputError, match="bits must be a whole number of at least 1, got 0"):
        BSQVAEConfig(bits=0)
    with pytest.raises(CheckpointError, match=r"it lacks 'encoder\.conv_in\.conv\.weight'"):
        BSQVAEConfig.of_state({})
    with pytest.raises(InputError, match=r"tokens \(B, 4, bits\) where a token holds 2 x 2; got \(1, 3, 16\)"):
        to_bits(torch.zeros(1, 3, 16), (4, 4), 2)
    with pytest.raises(UnknownName, match="no published BSQ-VAE is called 'infinity-vae-d33'; did you mean"):
        BSQVAEConfig.published("infinity-vae-d33")
