"""InfinityStar against every tensor that was recorded from the official code, with the tolerances that its noise allows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.adapters.infinitystar.golden import CASES, Case, case_of, generated, how_of, unrepeated


def close(mine: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Nothing is farther apart than that."""
    torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


@pytest.fixture(scope="module", params=CASES)
def run(request):
    """A recorded case, and what is generated here; bits are recorded ones where the official loop took some, too, and in the
    interactive clip, whose margins are below the noise."""
    case = case_of(request.param)
    leak = {"ns_i2v": sum(case.pyramids.repeats[0]), "interactive": len(case.names)}
    return case, *generated(case, forced=leak.get(request.param, 0))


def test_logits_and_bits(run) -> None:
    """Of every pass, after temperature and guidance."""
    case, drawn, *_ = run
    for name, logits, tokens, bits in zip(case.names, drawn.logits, drawn.tokens, case.bits, strict=True):
        close(logits, case.want[f"logits_{name}"], 5e-4)
        assert torch.equal(tokens, bits), name


def test_inputs_and_latents(run) -> None:
    """What is embedded for every pass, and the latent of the whole clip."""
    case, _, inputs, _, _, model = run
    for name, x in zip(case.names, inputs[-len(case.names) :], strict=True):
        if f"next_{name}" in case.want:
            close(x, case.want[f"next_{name}"], 1e-5)
    total = latent_of(case, model)
    close(total, case.want["summed"], 1e-5)


def latent_of(case: Case, model) -> Tensor:
    """The last total of a generation with the recorded bits."""
    totals: list[Tensor] = []
    model.generate(
        case.text, case.pyramids, case.choosing, seeds=None, story=case.story, forced=case.bits,
        on_scale=lambda step: totals.append(step.total),
    )  # fmt: skip
    return totals[-1]


def test_attention(run) -> None:
    """Queries, keys and values exactly as they enter softmax, in the recorded order of maps, and its output."""
    case, _, _, _, cache, model = run
    front = 1 + len(case.pyramids.conditions)
    number = front + case.scale
    q, out = cache.asked[case.layer, number]
    close(q, case.want["attn_q"], 1e-4)
    read = [m for m in cache.schedule.read_by(number) if m >= front]
    order = [*read, *range(front), number]
    for name, which in (("attn_k", 0), ("attn_v", 1)):
        if name in case.want:
            mine = torch.cat([cache.own[case.layer, m][which] for m in order], dim=2)
            close(mine, unrepeated(case.want[name], mine.shape[1]), 1e-4)
    if "attn_o" in case.want:
        projected = model.blocks[case.layer].attn.o_proj(out.transpose(1, 2).flatten(2))
        close(projected, case.want["attn_o"], 1e-4)
        for name, which in (("text_k", 0), ("text_v", 1)):
            close(cache.own[case.layer, 0][which], case.want[name], 1e-4)


def test_logits_before_guidance(run) -> None:
    """Both rows of the captured scale, its last repetition."""
    case, _, _, hidden, _, model = run
    if "raw_logits" not in case.want:
        return
    number = [each for each, name in enumerate(case.names) if name.startswith(f"s{case.scale}_")][-1]
    bits = case.pyramids.passes[number].bits
    close(model.logits_of(hidden[number - len(case.names)], bits), case.want["raw_logits"], 1e-4)


def test_frames(run) -> None:
    """At most one level of 255 apart; the official code writes BGR."""
    case, drawn, *_ = run
    if "uint8" not in case.want:
        return
    shown = [0, -1] if case.story else [0, 1, -1]
    levels = (drawn.images[:, :, shown] * 255).to(torch.uint8).permute(0, 2, 3, 4, 1).flip(-1)
    assert 1 >= (levels.int() - case.want["uint8"].int()).abs().max()


def test_the_recorded_references_are_those_of_the_schedule() -> None:
    """Which earlier maps each map reads."""
    for name in ("ns_cfg", "sq_apg", "ns_i2v", "image"):
        schedule = case_of(name).pyramids.schedule(5)
        assert how_of(name)["refs"] == [[m - 1 for m in schedule.read_by(k) if m] for k in range(1, len(schedule))]
