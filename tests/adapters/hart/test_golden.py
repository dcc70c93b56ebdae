"""HART against every tensor that was recorded from the official code, with the tolerances that its noise allows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.tokenizer import hybrid_encode
from scalekv_adapters.vqvae import residual_conv_index
from scalekv_core.cache.concat_cache import ConcatCache
from tests.adapters.hart.conftest import SIDES, Golden, header, tensors, tiny_tokenizer

LAYER, SCALE = 2, 4


class Watching(ConcatCache):
    """The unmodified cache, which notes what two of its calls were given."""

    def __init__(self, schedule) -> None:
        super().__init__(schedule)
        self.seen: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    def attend(self, layer, q, k, v, **options):
        scale = self._scales[layer]
        out = super().attend(layer, q, k, v, **options)
        self.seen[layer, scale] = q, self.keys[layer], self.values[layer], out
        return out


@pytest.fixture(scope="module")
def generated(golden: Golden):
    """(generation, totals by scale, the cache) with the recorded noise, guidance 4.5 and the likeliest codes."""
    caches, totals, hidden = [], [], []
    model = golden.model

    def new_cache(schedule):
        caches.append(Watching(schedule))
        return caches[-1]

    model.new_cache = new_cache
    original = model.run_blocks
    model.run_blocks = lambda *given: hidden.append(original(*given)) or hidden[-1]
    try:
        drawn = model.generate(
            golden.context,
            seeds=None,
            guidance=4.5,
            noise=golden.generated["noise"],
            keep_logits=True,
            on_scale=lambda step: totals.append(step.total),
        )
    finally:
        model.new_cache = ConcatCache
        del model.run_blocks
    return drawn, totals, caches[0], hidden


def close(mine: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Nothing is farther apart than that."""
    torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


def every_fourth(mine: Tensor, like: Tensor) -> Tensor:
    """The recorded codes: all of them, or every fourth."""
    return mine if mine.shape == like.shape else mine[..., ::4]


def test_logits_and_tokens(golden: Golden, generated) -> None:
    """Of every scale, after guidance; the tokens are equal."""
    drawn, *_ = generated
    for scale, (logits, tokens) in enumerate(zip(drawn.logits, drawn.tokens, strict=True)):
        recorded = golden.generated[f"logits_s{scale}"]
        close(every_fourth(logits, recorded), recorded, 5e-4)
        assert torch.equal(tokens, golden.generated[f"idx_s{scale}"].long())


def test_sums_inputs_and_image(golden: Golden, generated) -> None:
    """What is embedded for the next scale, the sum before and after the last map with its diffusion, and the image."""
    drawn, totals, *_ = generated
    for scale, total in enumerate(totals[:-1]):
        recorded = golden.generated[f"next_s{scale}"]
        mine = golden.model.tokenizer.next_input(total, scale).mT.unflatten(2, recorded.shape[2:])
        close(mine, recorded, 2e-5)
    close(totals[-2], golden.generated["fhat_s4"], 2e-5)
    close(totals[-1], golden.generated["fhat_final"], 3e-4)
    close(drawn.images, golden.generated["image"], 5e-5)


def test_attention(golden: Golden, generated) -> None:
    """Queries, keys and values exactly as they enter softmax, its output, and the keys of the text."""
    *_, cache, hidden = generated
    for name, mine in zip(("attn_q", "attn_k", "attn_v", "attn_out"), cache.seen[LAYER, SCALE], strict=True):
        close(mine, golden.generated[name], 5e-4)
    close(cache.seen[0, 0][1], golden.generated["context_k"], 5e-4)
    close(hidden[0], golden.generated["hidden_s0"], 1e-3)


def test_logits_before_guidance(golden: Golden, generated) -> None:
    """Both halves of scale 1."""
    *_, hidden = generated
    model, context = golden.model, golden.context.with_unconditional()
    from scalekv_adapters.hart.transformer import Condition

    condition = Condition.of(model.embed_text(context.features), context.real)
    close(
        every_fourth(model.logits_of(hidden[1], condition), golden.generated["raw_s1"]),
        golden.generated["raw_s1"],
        2e-4,
    )


def test_teacher_forcing(golden: Golden) -> None:
    """All scales at once give the recorded hidden states and logits, and what the diffusion is told."""
    with torch.no_grad():
        hidden, logits = golden.model.teacher_forced(golden.context, tensors("vae")["var_input"])
        close(hidden, golden.teacher_forced["hidden"], 1e-3)
        close(logits[..., ::4], golden.teacher_forced["logits"], 2e-4)
        codes = golden.model.tokenizer.quantize.embedding(logits[:, -36:].argmax(-1))
        close(golden.model.decoder_condition(hidden[:, -36:], codes), golden.teacher_forced["diff_cond"], 1e-3)
        close(tensors("vae")["last_residual"] - codes, golden.teacher_forced["diff_target"], 1e-4)


def test_the_tokenizer_encodes_and_decodes() -> None:
    """Features, tokens, what the last map leaves over, inputs of teacher forcing, and the continuous image."""
    recorded, tokenizer = tensors("vae"), tiny_tokenizer()
    close(tokenizer.encode_features(recorded["image"]), recorded["encoded"], 1e-4)
    tokens, left = hybrid_encode(tokenizer, recorded["image"])
    for scale, mine in enumerate(tokens):
        assert torch.equal(mine, recorded[f"idx_s{scale}"].long())
    close(left, recorded["last_residual"], 1e-4)
    close(tokenizer.teacher_inputs(tokens), recorded["var_input"], 2e-5)
    close(tokenizer.decode(recorded["encoded"]), recorded["decoded"], 1e-4)


@pytest.mark.parametrize("scales", [6, 10, 14])
def test_the_convolution_of_a_scale(scales: int) -> None:
    """As the official code ends up with it."""
    recorded = header("io", "phi_index")[str(scales)]
    assert recorded == [residual_conv_index(scale, scales) for scale in range(scales - 1)]


def test_the_published_schedule() -> None:
    """9,750 tokens at 1024 x 1024, text included, of which 5,654 enter the last scale; 147,456 bytes each."""
    geometry = HARTConfig.published("hart-0.7b").geometry(torch.float16)
    schedule = geometry.schedule
    assert (9_750, 5_654, 300, 14) == (schedule.total, schedule.last_history, schedule.prefix_tokens, len(schedule))
    assert (147_456, 1_371, 795) == (
        geometry.token_bytes,
        geometry.unmodified_bytes // 2**20,
        geometry.history_bytes // 2**20,
    )
    assert SIDES == tiny_tokenizer().sides
