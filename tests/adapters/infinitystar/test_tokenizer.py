"""InfinityStar's video tokenizer against every tensor that was recorded of it, and what only chunks can get wrong."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor

from scalekv_adapters.infinitystar.tokenizer import VideoTokenizer
from scalekv_adapters.infinitystar.tokenizer_bits import add_bits, pooled, quantize, to_bits, to_tokens
from scalekv_adapters.infinitystar.tokenizer_checkpoint import random_video_tokenizer
from scalekv_adapters.infinitystar.tokenizer_config import VideoTokenizerConfig
from scalekv_core.errors import InputError
from scalekv_core.memory.dry_run import MetaTracker, on_meta
from tests.adapters.infinitystar.tokenizer_data import (
    DATA,
    SMALL,
    TINY,
    golden_tokenizer,
    recorded,
    told,
    width_of,
)

TOLERANCE = 5e-5
"""Twenty times the noise of the official code."""


def close(mine: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    """Nothing is farther apart than that."""
    torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


def test_encoding_a_clip_and_an_image():
    """Moments before folding, the features of 17 frames, and those of the first one alone."""
    want, tokenizer = recorded("vae"), golden_tokenizer()
    close(tokenizer.moments(want["video"]), want["moments"])
    close(tokenizer.encode_features(want["video"]), want["features"])
    close(tokenizer.encode_features(want["video"][:, :, :1]), want["image_features"])


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_decoding_clips_of_odd_and_even_numbers_of_latent_frames(at_once):
    """Whatever the chunks: five latent frames, four, and one."""
    want, tokenizer = recorded("vae"), golden_tokenizer()
    clip = tokenizer.decode_features(want["features"], at_once=at_once)
    close(clip[:, :, [0, 1, 4, 16]], want["decoded_frames"])
    four = torch.cat([want["features"]] * 2, dim=2)[:, :, :4]
    close(tokenizer.decode_features(four, at_once=at_once)[..., ::4, ::4], want["decoded_even"])
    image = tokenizer.decode_features(want["image_features"], at_once=at_once)
    close(image[..., ::2, ::2], want["image_decoded"])


@pytest.mark.parametrize("case", ["ns_cfg", "sq_apg", "ns_i2v"])
def test_the_frames_of_generated_clips(case):
    """The first, which shows the second, the second and the last: at most one level of 255 apart."""
    frames = golden_tokenizer().pictures(recorded("io")[f"{case}.summed"])[:, :, [0, 1, -1]]
    levels = (frames * 255).to(torch.uint8).permute(0, 2, 3, 4, 1).flip(-1)  # the official code writes BGR
    assert 1 >= (levels.int() - recorded("io")[f"{case}.uint8"].int()).abs().max()
    assert torch.equal(frames[:, :, 0], frames[:, :, 1])


def test_a_generated_image_is_a_clip_of_one_frame():
    """Which the official code cannot finish, but decodes."""
    frames = golden_tokenizer().pictures(recorded("io")["image.summed"])
    close((frames * 2 - 1)[..., ::2, ::2], recorded("io")["image.decoded"].clamp(-1, 1))


@pytest.mark.parametrize("case", ["ns_cfg", "sq_apg", "ns_i2v", "image"])
def test_bits_add_up_to_the_recorded_inputs_and_latents(case):
    """Semantic and detail codes, repeated scales, pyramids of one frame and of several."""
    want, how = recorded("io"), told("cases")[case]
    _, height, width = how["schedule"][-1]
    latents, total = [], None
    for scale, repeat in how["steps"]:
        t, h, w = how["schedule"][scale]
        if (h, w) == (1, 1) and repeat == 0:
            latents += [] if total is None else [total]
            total = golden_tokenizer().empty_sum(1, t, height, width)
        close(pooled(total, (t, h, w)), want[f"{case}.next_s{scale}_r{repeat}"], 1e-5)
        bits = to_bits(want[f"{case}.bits_s{scale}_r{repeat}"].flatten(1, 3).bool(), (t, h, w))
        total = add_bits(total, bits)
    close(torch.cat([*latents, total], dim=2), want[f"{case}.summed"], 1e-5)


def test_an_image_gives_the_recorded_bits():
    """Those with which a clip begins that starts from an image: exactly."""
    want, how = recorded("io"), told("cases")["ns_i2v"]
    steps = [scale for scale, _ in how["steps"] if scale < 4]
    maps = [tuple(how["schedule"][scale]) for scale in steps]
    widths = [width_of(how, step) for step in range(len(steps))]
    bits = golden_tokenizer().encode_images(want["ns_i2v.ref_image"][:, :, 0], maps, widths)
    for number, mine in enumerate(bits):
        assert torch.equal(want[f"ns_i2v.ref_bits_{number}"].flatten(1, 3).bool(), to_tokens(mine))


def test_a_clip_gives_the_recorded_labels_and_inputs_of_training():
    """Of three pyramids, one repetition of each scale."""
    want, how, picks = recorded("io"), told("cases")["ns_cfg"], told("tf")["picks"]
    steps, inputs, labels = how["steps"], [], []
    for pyramid in ([0, 6], [6, 12], [12, 18]):
        here = range(*pyramid)
        scales = [steps[step][0] for step in here]
        start, end = how["frames"][scales[0]]
        maps = [tuple(how["schedule"][scale]) for scale in scales]
        bits, sums = quantize(want["tf.features"][:, :, start:end], maps, [width_of(how, step) for step in here])
        inputs += [to_tokens(pooled(total, grid)) for total, grid in zip(sums, maps, strict=True)]
        labels += [to_tokens(each) for each in bits]
    close(torch.cat([inputs[pick] for pick in picks], dim=1), want["tf.x"], 1e-5)
    for scale, pick in enumerate(picks):
        assert torch.equal(want[f"tf.labels_s{scale}"].bool(), labels[pick])


def test_a_clip_in_chunks_is_the_clip_at_once():
    """Also its gradients, for a batch of two, of two latent frames, which the official code cannot decode, and of seven."""
    tokenizer = random_video_tokenizer(SMALL, seed=3)
    for latents in (2, 7):
        features = torch.randn(2, 8, latents, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        gradients = []
        clips = [tokenizer.decode_features(features, at_once=chunk) for chunk in (1, 3, latents)]
        for clip in clips:
            gradients.append(*torch.autograd.grad(clip.square().sum(), features))
        assert (2, 3, 4 * latents - 3, 32, 48) == clips[0].shape
        for clip, gradient in zip(clips[1:], gradients[1:], strict=True):
            close(clip, clips[0], 1e-5)
            torch.testing.assert_close(gradient, gradients[0])


def test_a_chunk_sees_all_chunks_before_it_and_none_after():
    """Another last latent frame changes the last four frames only; another first one changes all."""
    tokenizer = golden_tokenizer()
    features = torch.randn(1, 64, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    before = tokenizer.decode_features(features)
    for frame, changed in ((3, [9, 10, 11, 12]), (0, list(range(13)))):
        other = features.clone()
        other[:, :, frame] += 1
        apart = (tokenizer.decode_features(other) - before).abs().amax(dim=(0, 1, 3, 4))
        assert changed == apart.nonzero().flatten().tolist()


@pytest.mark.parametrize("config", [VideoTokenizerConfig(), TINY, SMALL], ids=["published", "tiny", "small"])
@pytest.mark.parametrize("size", [(1, 4, 3), (2, 2, 2), (5, 3, 4), (21, 4, 6)])
def test_the_memory_of_decoding_is_bounded(config, size):
    """By at most three times what a dry run finds; it grows with the clip and its latents, not with what is made on the way."""
    with torch.device("meta"):
        tokenizer = VideoTokenizer(config)
    peak = decoding_peak(tokenizer, *size)
    assert peak <= 4 * config.most_decoding(*size)
    if size[0] > 3:
        assert 4 * config.most_decoding(*size) < 3 * peak
        frame, latent = (4 * numbers * size[1] * size[2] for numbers in (3 * 256, config.code_width))
        longer = decoding_peak(tokenizer, 2 * size[0], *size[1:]) - peak
        assert size[0] * 4 * frame <= longer <= size[0] * (4 * frame + 2 * latent)


def decoding_peak(tokenizer: VideoTokenizer, *size: int) -> int:
    """Bytes that decoding one clip takes at most."""
    features = torch.zeros(1, tokenizer.config.code_width, *size, device="meta")
    with on_meta(MetaTracker()) as tracker:
        tokenizer.pictures(features)
    return tracker.peak


def test_a_dry_run_finds_the_peak_of_a_real_run():
    """Though it skips chunks that take no more than those before them."""
    from scalekv_core.memory.meter import StorageTracker

    tokenizer = random_video_tokenizer(SMALL)
    with StorageTracker() as tracker:
        tokenizer.pictures(torch.zeros(2, 8, 6, 2, 2))
    with torch.device("meta"):
        bare = VideoTokenizer(SMALL)
    with on_meta(MetaTracker()) as dry:
        bare.pictures(torch.zeros(2, 8, 6, 2, 2, device="meta"))
    assert 0.99 < tracker.peak / dry.peak < 1.01


def test_names_and_shapes_are_those_of_the_published_one():
    """184,659,383 parameters under their official names; what else the file holds are masks."""
    manifest = json.loads((DATA / "manifests" / "infinitystar_videovae.json").read_text())
    with torch.device("meta"):
        tokenizer = VideoTokenizer(VideoTokenizerConfig())
    assert manifest["params"] == {name: list(x.shape) for name, x in tokenizer.named_parameters()}
    assert 184_659_383 == manifest["n_params"] == sum(x.numel() for x in tokenizer.parameters())
    assert 184_659_383 < VideoTokenizerConfig().most_weights < 1.5 * 184_659_383
    assert not list(tokenizer.buffers())
    assert all(name.endswith("mask") for name in manifest["buffers"])


def test_it_can_be_trained():
    """A step along the gradient of the reconstruction lowers it, through encoder, decoder and all chunks."""
    tokenizer = copy.deepcopy(golden_tokenizer()).requires_grad_(True)
    clip = recorded("vae")["video"][:, :, :9]

    def loss() -> Tensor:
        return (tokenizer.decode_features(tokenizer.encode_features(clip)) - clip).square().mean()

    before = loss()
    before.backward()
    unused = {name for name, weight in tokenizer.named_parameters() if weight.grad is None}
    assert {f"proj_{way}_two.{part}" for way in ("up", "down") for part in ("weight", "bias")} == unused
    with torch.no_grad():
        for weight in tokenizer.parameters():
            if weight.grad is not None:
                weight -= 1e-4 * weight.grad / weight.grad.norm().clamp_min(1e-12)
        assert loss() < before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda it: it.encode_features(torch.zeros(1, 3, 8, 16, 16)), r"F = 1, 5, 9, .* got \(1, 3, 8, 16, 16\)"),
        (lambda it: it.encode_features(torch.zeros(1, 3, 5, 16, 24)), "multiples of 16"),
        (lambda it: it.decode_features(torch.zeros(1, 64, 2, 2)), r"needs features \(B, 64, t, h, w\)"),
        (lambda it: it.pictures(torch.zeros(1, 63, 1, 2, 2)), r"needs features \(B, 64, t, h, w\)"),
        (
            lambda it: it.encode_images(torch.zeros(1, 3, 32, 32), [(1, 1, 1), (1, 2, 3)], [16, 64]),
            r"a clip of 32 x 48 pixels begins with images .* choose another aspect ratio",
        ),
        (lambda it: quantize(torch.zeros(1, 64, 2, 2, 2), [(1, 2, 2)], [16]), "maps of 2 frames .* got 1 x 2 x 2"),
        (lambda it: to_bits(torch.zeros(1, 5, 16), (1, 2, 2)), r"needs tokens \(B, 4, bits\); got \(1, 5, 16\)"),
        (lambda it: VideoTokenizerConfig(widths=(8, 16, 24, 32)), "divides 4 times the one before it"),
        (lambda it: VideoTokenizerConfig(widths=(8, 16)), "widths must be 4 numbers"),
        (lambda it: VideoTokenizerConfig(blocks=0), "blocks must be a whole number of at least 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    """In one line: frames, sides, features, images of another aspect ratio, maps, tokens, sizes."""
    with pytest.raises(InputError, match=message) as error:
        call(golden_tokenizer())
    assert "\n" not in str(error.value)
