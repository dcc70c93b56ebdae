"""The official object under a session, beside ours: the same clips, as unmodified where nothing is dropped, and afterwards always."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from attrs import evolve
from torch import nn

from scalekv_adapters.infinitystar.adapter import InfinityStarAdapter
from scalekv_adapters.infinitystar.guidance import Choosing, Guidance
from scalekv_adapters.infinitystar.official import OfficialInfinityStarAdapter, schedule_of
from scalekv_adapters.infinitystar.templates import published
from scalekv_core import SessionError, calibrate, compress
from tests.adapters.drawing import every_policy, policy_and_budget, same
from tests.adapters.infinitystar.golden import CASES, Case, case_of, new_star
from tests.adapters.infinitystar.official_standin import StandInInfinityStar
from tests.adapters.infinitystar.test_adapter import LONG, long_case
from tests.adapters.promises import AdapterPromises, Drawer, floats


class DrawsClips(Drawer):
    """An InfinityStar, of either structure, and a case that it generates."""

    scales = len(long_case().pyramids.passes)
    unguided, guided = 1.0, 3.0

    def __init__(self, model, case: str = LONG) -> None:
        self.model, self.case = model, long_case() if case == LONG else case_of(case)

    def tokens(self, drawn):
        """Of every pass, flat: small and large maps have other widths."""
        return torch.cat([bits.flatten() for bits in drawn[1 : 1 + self.passes]])

    @property
    def passes(self) -> int:
        return len(self.case.pyramids.passes)

    def choosing(self, guidance: float | None) -> Choosing:
        """That of the case, or plain guidance of this strength."""
        if guidance is None:
            return self.case.choosing
        return evolve(self.case.choosing, guidance=Guidance((guidance,) * self.passes))

    @property
    def second_block(self):
        return self.model.block_chunks[0].module[1]


class Ours(DrawsClips):
    """Our InfinityStar, which generates by its own method."""

    def draw(self, *, guidance=None):
        case: Case = self.case
        out = self.model.generate(
            case.text, case.pyramids, self.choosing(guidance), seeds=None, story=case.story, keep_logits=True
        )
        return [out.images, *out.tokens, *out.logits]


class Official(DrawsClips):
    """An object with the official structure, which generates by the official method."""

    def draw(self, *, guidance=None):
        case: Case = self.case
        images = self.model.ar_infer_infinity_elegant(case.text, case.pyramids, self.choosing(guidance), case.story)
        logits, tokens = zip(*self.model.passed, strict=True)
        return [images, *tokens, *logits]


def our_star():
    """That expects the long clip."""
    star = new_star()
    star.pyramids, star.text_tokens = long_case().pyramids, 2
    return star


@pytest.fixture(params=[LONG, *(pytest.param(name, marks=pytest.mark.thorough) for name in ("interactive", "sq_apg"))])
def variant(request):
    """Three pyramids, a clip that follows others, and projected guidance with a negative prompt."""
    return request.param


@pytest.fixture
def ours():
    return lambda variant=LONG: Ours(our_star(), variant)


@pytest.fixture
def official():
    return lambda variant=LONG: Official(StandInInfinityStar(our_star()).eval(), variant)


@pytest.fixture(params=["ours", "official"])
def make(request):
    """Makes something to generate with, of either structure."""
    return request.getfixturevalue(request.param)


def attention(model: Any) -> Any:
    """Of the second layer."""
    return model.block_chunks[0].module[1].attn


@pytest.fixture(
    params=[
        lambda model: setattr(attention(model), "v_norm", nn.LayerNorm(32)),
        lambda model: delattr(attention(model), "q_norm"),
        lambda model: delattr(attention(model), "cached_k"),
        lambda model: setattr(attention(model), "forward", lambda x, scale_ind: x),
        lambda model: delattr(model, "semantic_head2"),
        lambda model: setattr(model, "block_chunks", None),
    ],
    ids=["more weights", "fewer weights", "no cache", "another call", "one head", "no chunks"],
)
def change(request):
    """What makes of the official structure a similar one."""
    return request.param


@pytest.fixture(scope="module")
def profile():
    """What calibration measures on the long clip."""
    drawer = Ours(our_star())
    with calibrate(drawer.model) as calibration:
        drawer.draw()
    return calibration.profile()


class TestAdapters(AdapterPromises):
    """What every family promises."""

    adapters: ClassVar = {"infinitystar": InfinityStarAdapter, "infinitystar-official": OfficialInfinityStarAdapter}
    shape: ClassVar = {"layers": 4, "heads": 2, "group": 2, "head_dim": 32, "rows": 1}
    stand_in: ClassVar = "StandInInfinityStar"

    @staticmethod
    def drop_out(model):
        attention(model).attn_drop = 0.5

    @every_policy
    def test_every_policy_draws_the_same_with_both(self, ours, official, profile, name, budget):
        """As for every family; here `heatkv` holds the first maps of all, which leaves nothing to drop."""
        policy, budget = policy_and_budget(name, budget)
        budget = "100%" if name == "heatkv" else budget
        drawn = []
        for drawer in (ours(), official()):
            with compress(drawer.model, policy, budget, check=True, profile=profile) as session:
                drawn.append(drawer.draw())
            (image,) = session.report().images
            assert image.as_planned
            assert image.dropped == (policy.allocator.spends_all and name != "heatkv")
        assert torch.equal(*map(ours().tokens, drawn))
        for a, b in zip(*map(floats, drawn), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=5e-4)

    def test_a_smaller_cache_changes_the_image(self, make):
        """As for every family; the first pyramid reads no other map, so nothing of it is missing."""
        drawer = make()
        before = drawer.logits(drawer.draw())
        with compress(drawer.model, "uniform", "20%"):
            during = drawer.logits(drawer.draw())
        first = sum(drawer.case.pyramids.repeats[0])
        assert same(before[:first], during[:first])
        assert not torch.equal(before[-1], during[-1])


QUICK = ("ns_cfg", "interactive")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.thorough]) for name in (*CASES, LONG)]
)
def test_the_official_order_of_sums_changes_last_bits_only(name: str) -> None:
    """Keys repeated, maps before text: the same bits, logits within the noise that was recorded (6.3e-5, 8.9e-5), and under `full`
    the clips of our model, bit by bit."""
    official = Official(StandInInfinityStar(our_star(), repeats=True).eval(), name)
    mine, unmodified = Ours(our_star(), name).draw(), official.draw()
    with compress(official.model, "full", check=True) as session:
        during = official.draw()
    assert session.report().images[0].as_planned
    assert same(mine[1:], during[1:])
    assert torch.equal(official.tokens(unmodified), official.tokens(during))
    for a, b in zip(floats(unmodified)[1:], floats(during)[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_outside_of_a_clip_the_object_is_itself(official) -> None:
    """Attention with a mask, as in training, and without caching, is its own."""
    model = official().model
    x, grid = torch.randn(1, 3, 128), torch.stack((torch.ones(3, 16), torch.zeros(3, 16)))[:, None, None, None]
    mask = torch.zeros(1, 1, 3, 3)
    expected = [attention(model)(x, bias, rope2d_freqs_grid=grid) for bias in (mask, None)]
    with compress(model, "full"):
        assert same(expected, [attention(model)(x, bias, rope2d_freqs_grid=grid) for bias in (mask, None)])
        official_clip = Official(model)
        official_clip.draw()


def test_the_schedule_is_that_of_the_published_pyramids() -> None:
    """From what the official code tells with every call."""
    for setting in ("720p-5s", "480p-interactive"):
        pyramids = published(setting)
        want = pyramids.schedule(9)
        front = 1 + len(pyramids.conditions)
        context = {
            m: {"ref_sids": [r - front for r in want.read_by(front + m) if r >= front]}
            for m in range(len(pyramids.maps))
        }
        tokens = [t * h * w for t, h, w in pyramids.conditions]
        before = dict(zip(("t0", "semantic_condition", "detail_condition"), (9, *tokens), strict=False))
        assert want == schedule_of(pyramids.maps, context, before)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ({}, "begins a clip with 'a map' instead of the text"),
        ({"semantic_condition": 8}, "begins a clip with 'semantic_condition' instead of the text"),
        ({"t0": 3, "semantic_condition": 7}, "passes 7 tokens as 'semantic_condition', which fit no map of the clip"),
        ({"t0": 3, "detail_condition": 13}, "passes 13 tokens as 'detail_condition', which fit no map of the clip"),
    ],
)
def test_what_does_not_fit_a_clip_is_refused(before, message) -> None:
    """In one line."""
    maps = [(2, 1, 1), (2, 2, 2), (2, 3, 4)]
    with pytest.raises(SessionError, match=message):
        schedule_of(maps, {m: {"ref_sids": []} for m in range(3)}, before)
