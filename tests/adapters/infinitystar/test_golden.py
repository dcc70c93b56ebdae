"""InfinityStar against every tensor that was recorded from the official code, with the tolerances that its noise allows."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scalekv_adapters.infinitystar.pyramids import DETAIL_BITS, SEMANTIC_BITS
from scalekv_adapters.infinitystar.text import Text
from scalekv_core.errors import InputError
from tests.adapters.infinitystar.golden import CASES, Case, case_of, generated, golden_star, how_of, unrepeated
from tests.adapters.infinitystar.tokenizer_data import recorded, told


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


def recorded_lesson():
    """(hidden states of the teacher-forced clip, the passes that were picked, everything that was recorded)."""
    want, picks, case = recorded("io"), told("tf")["picks"], case_of("ns_cfg")
    assert told("tf")["positions"] == picks
    model = golden_star()
    return model, model.teacher_forced(Text(want["tf.text"][None]), case.pyramids, picks, want["tf.x"]), picks, want


def test_teacher_forcing() -> None:
    """All maps at once give the recorded logits of both heads."""
    model, hidden, _, want = recorded_lesson()
    close(model.logits_of(hidden, DETAIL_BITS), want["tf.logits_detail"], 1e-4)
    close(model.logits_of(hidden, SEMANTIC_BITS), want["tf.logits_semantic"], 1e-4)


def test_the_loss_of_teacher_forcing() -> None:
    """Of every token the mean over its bits, by the head of its scale; and how many of them would be right."""
    model, hidden, picks, want = recorded_lesson()
    passes = [case_of("ns_cfg").pyramids.passes[number] for number in picks]
    losses, right = [], []
    for scale, (each, part) in enumerate(zip(passes, hidden.split([prod(p.grid) for p in passes], dim=1), strict=True)):
        pairs = model.logits_of(part, each.bits)[0].unflatten(1, (-1, 2))  # (n, bits, 2)
        labels = want[f"tf.labels_s{scale}"][0].long()
        losses.append(cross_entropy(pairs.mT, labels, reduction="none").mean(1))
        right.append((pairs.argmax(-1) == labels).float().mean(1))
    close(torch.cat(losses), want["tf.loss"], 1e-4)
    close(torch.cat(right), want["tf.acc"], 1e-6)


def test_generating_and_teacher_forcing_agree() -> None:
    """The logits of every map's last pass, from what was embedded for it."""
    case = case_of("ns_cfg")
    _, inputs, hidden, _, model = generated(case, forced=0)
    last = [each.number for each in case.pyramids.passes if each.last]
    x = torch.cat([inputs[number].flatten(2).mT for number in last], dim=1)
    one_by_one = torch.cat([hidden[number - len(case.names)][:1] for number in last], dim=1)
    together = model.teacher_forced(case.text, case.pyramids, last, x)
    close(together, one_by_one, 1e-4)


@pytest.mark.parametrize(("picks", "tokens"), [([0, 2], 115), ([0, 2, 3, 5, 7, 9, 10, 11, 13, 15, 16, 17], 114)])
def test_other_lessons_are_refused(picks, tokens) -> None:
    """Not one pass of each map, or another number of tokens."""
    case = case_of("ns_cfg")
    with pytest.raises(InputError, match="one pass of each of 12 maps, 115 tokens; got"):
        golden_star().teacher_forced(case.text, case.pyramids, picks, torch.zeros(1, tokens, 64))
