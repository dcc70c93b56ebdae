"""Our InfinityStar under a session: as unmodified where nothing is dropped, smaller where a budget says so."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from scalekv_adapters.infinitystar.adapter import InfinityStarAdapter
from scalekv_adapters.infinitystar.guidance import Choosing, Guidance
from scalekv_adapters.infinitystar.pyramids import Pyramids
from scalekv_adapters.infinitystar.text import Text
from scalekv_core import calibrate, compress, shared_registry
from tests.adapters.drawing import same
from tests.adapters.infinitystar.golden import CASES, case_of, new_star

LONG = "long"
"""A clip whose maps are large beside its text, so that 20 % holds more than that."""


def long_case():
    """Three pyramids, of which the last map has 60 tokens, and two text tokens."""
    case = case_of("ns_cfg")
    grids, repeats = ((1, 1), (2, 2), (3, 4), (5, 6)), ((2, 1, 1, 1),) * 3
    pyramids = Pyramids(grids=grids, frames=(1, 2, 2), repeats=repeats, semantic_scales=2)
    choosing = Choosing(guidance=Guidance((3.0,) * 15), temperatures=(0.5,) * 15)
    return evolve(case, text=Text(case.text.features[:, :2]), pyramids=pyramids, choosing=choosing)


def drawn(model, name: str, **options):
    """Everything that comes out of a case."""
    case = long_case() if name == LONG else case_of(name)
    out = model.generate(
        case.text, case.pyramids, case.choosing, seeds=None, story=case.story, keep_logits=True, **options
    )
    return [out.images, *out.tokens, *out.logits]


@pytest.fixture
def model():
    """The golden transformer, that expects the long clip."""
    star = new_star()
    star.pyramids, star.text_tokens = long_case().pyramids, 2
    return star


@pytest.mark.parametrize("name", CASES)
def test_full_is_bit_identical(model, name: str) -> None:
    """And drops what no later map reads: everything but the text, the conditions and the last map of the pyramid before."""
    before = drawn(model, name)
    with compress(model, "full", check=True) as session:
        during = drawn(model, name)
    assert same(before, during)
    assert same(before, drawn(model, name))
    (case, (image,)) = case_of(name), session.report().images
    assert image.as_planned
    shape = model.config.geometry(case.pyramids.schedule(case.text.tokens)).for_rows(2)
    assert shape.unmodified_bytes > shape.history_bytes == max(image.resident)


@pytest.fixture(scope="module")
def profile():
    """What calibration measures on the long clip."""
    star = new_star()
    star.pyramids, star.text_tokens = long_case().pyramids, 2
    with calibrate(star) as calibration:
        drawn(star, LONG)
    return calibration.profile()


def test_a_profile_serves_texts_of_any_length(model, profile) -> None:
    """It was measured with two text tokens, here there are five."""
    case, whole = long_case(), case_of("ns_cfg").text
    with compress(model, "scalekv", "50%", check=True, profile=[profile]) as session:
        for text in (case.text, whole):
            model.generate(text, case.pyramids, case.choosing, seeds=None)
    assert [2, 5] == [image.planned.plan.schedule.prefix_tokens for image in session.report().images]
    assert all(image.as_planned and image.dropped for image in session.report().images)


@pytest.mark.parametrize("name", [LONG, "interactive"])
def test_a_smaller_cache_changes_the_clip(model, name: str) -> None:
    """And the text is always kept."""
    before, seen = drawn(model, name), []
    with compress(model, "h2o", "50%", observer=lambda view, kept: seen.append(kept)):
        during = drawn(model, name)
    assert not torch.equal(before[-1], during[-1])
    count = 2 if name == LONG else 5
    text = torch.arange(count)
    kept = [each for each in seen if each is not None and each.shape[2]]
    assert kept
    assert all(torch.equal(each[..., :count], text.expand(*each.shape[:2], count)) for each in kept)


def test_the_adapter_knows_its_own() -> None:
    """And reads the geometry off the model."""
    star = new_star()
    assert "infinitystar" == shared_registry().adapter_for(star)[0]
    shape = InfinityStarAdapter().geometry(star)
    assert (4, 2, 2, 32, 1) == (shape.layers, shape.heads, shape.group, shape.head_dim, shape.schedule.prefix_tokens)
    assert 21 == star.pyramids.latent_frames
