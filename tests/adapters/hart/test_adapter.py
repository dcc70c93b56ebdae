"""Our HART and the official object under a session: as unmodified where nothing is dropped, and afterwards always."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from scalekv_adapters.hart.adapter import HARTAdapter
from scalekv_adapters.hart.official import OfficialHARTAdapter
from scalekv_core import ScaleSchedule, SessionError, calibrate, compress
from tests.adapters.hart.conftest import context_of
from tests.adapters.promises import AdapterPromises, Drawer

PLAIN = "plain"


class DrawsTexts(Drawer):
    """A HART, of either structure."""

    scales = 6
    unguided, guided = 0.0, 4.5

    def __init__(self, model):
        self.model = model

    @property
    def second_block(self):
        return self.model.blocks[1]


class Ours(DrawsTexts):
    """Our HART, which generates by its own method."""

    def draw(self, *, guidance=DrawsTexts.guided):
        drawn = self.model.generate(context_of(PLAIN), seeds=None, guidance=guidance, keep_logits=True)
        return [drawn.images, *drawn.tokens, *drawn.logits]


class Official(DrawsTexts):
    """An object with the official structure, which generates by the official method."""

    def draw(self, *, guidance=DrawsTexts.guided, **options):
        context = context_of(PLAIN)
        images = self.model.autoregressive_infer_cfg(context.features, context.real, cfg=guidance, **options)
        logits, tokens = zip(*self.model.drawn, strict=True)
        return [images, *tokens, *logits]


@pytest.fixture(params=[PLAIN, "table", pytest.param("ada", marks=pytest.mark.thorough)])
def variant(request):
    """As published, and with l2-normalised keys and modulated blocks."""
    return request.param


@pytest.fixture
def ours(make_hart):
    return lambda variant=PLAIN: Ours(make_hart(variant))


@pytest.fixture
def official(make_official):
    return lambda variant=PLAIN: Official(make_official(variant))


@pytest.fixture(params=["ours", "official"])
def make(request):
    """Makes something to generate with, of either structure."""
    return request.getfixturevalue(request.param)


@pytest.fixture(
    params=[
        lambda model: setattr(model.blocks[1].attn, "k_norm", nn.LayerNorm(32)),
        lambda model: delattr(model.blocks[1].attn, "q_bias"),
        lambda model: delattr(model.blocks[1].attn, "cached_k"),
        lambda model: setattr(model.blocks[1].attn, "forward", lambda x, attn_bias: x),
        lambda model: delattr(model, "context_token"),
    ],
    ids=["more weights", "fewer weights", "no cache", "another call", "no text"],
)
def change(request):
    """What makes of the official structure a similar one."""
    return request.param


@pytest.fixture(scope="module")
def profile(make_hart):
    """What calibration measures on the plain variant."""
    drawer = Ours(make_hart(PLAIN))
    with calibrate(drawer.model) as calibration:
        drawer.draw()
    return calibration.profile()


class TestAdapters(AdapterPromises):
    """What every family promises."""

    adapters: ClassVar = {"hart": HARTAdapter, "hart-official": OfficialHARTAdapter}
    shape: ClassVar = {
        "schedule": ScaleSchedule([(1, 1, 12), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)], prefix=True),
        "layers": 3,
        "heads": 3,
        "head_dim": 32,
        "rows": 1,
    }
    stand_in: ClassVar = "StandInHART"

    @staticmethod
    def drop_out(model):
        model.blocks[1].attn.attn_drop = 0.5


def test_a_map_in_parts_is_refused(official) -> None:
    """The official loop may generate its last map in parts that see each other; the refusal says so in one line."""
    drawer = official()
    message = "passes 18 of 36 tokens of map 5 at once; a compressed cache needs whole maps: generate with num_maskgit_iters=1"
    with pytest.raises(SessionError, match=message), compress(drawer.model, "full"):
        drawer.draw(num_maskgit_iters=2)


def test_the_text_is_always_kept(ours) -> None:
    """At 40 % every head keeps all twelve text tokens, padding included, and policies see maps alone."""
    drawer, seen = ours(), []
    with compress(drawer.model, "snapkv", "40%", observer=lambda view, kept: seen.append((view, kept))):
        drawer.draw()
    text = torch.arange(12)
    for _, kept in seen:
        if kept is not None and kept.shape[2]:
            assert torch.equal(kept[..., :12], text.expand(*kept.shape[:2], 12))
    assert any(kept is not None and kept.shape[2] < view.tokens for view, kept in seen)
