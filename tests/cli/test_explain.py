"""``scalekv explain`` shows which tokens each head keeps, as plots and as tables."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from scalekv_core.compare.explain import Explanation, KeptTokens, held_share, typical_layers, visible_share
from scalekv_core.compare.explain_plots import figure_of_kept, figure_of_plan
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.planning.planner import plan_policy
from scalekv_core.plugins.registry import Registry
from scalekv_core.session.calibration import calibrate
from scalekv_core.session.compress import compress
from scalekv_core.testing import toy

TOY = ("explain", "3", "--model", "toy", "--policy", "windowed")


def test_plots(run, picture) -> None:
    """One plot shows the plan, one the kept tokens."""
    ran = run(*TOY, "--out", "plots", "--layer", "1", "--head", "2")

    assert 0 == ran.code
    assert ["kept.png", "plan.png"] == sorted(file.name for file in Path("plots").iterdir())
    assert all(picture(file).shape[1] > 400 for file in Path("plots").iterdir())


def test_text_is_the_same_as_tables(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """--text prints tokens held per layer and tokens visible to the last scale, without matplotlib or files."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lines = run(*TOY, "--text").out.splitlines()

    assert "    1    1    3    4" in lines  # layer 1: 1 of 1, 3 of 3, 4 of 9
    assert " seen    1    3    9" in lines
    assert "    2    0    0    4" in lines  # the last 4 tokens are all of map 2x3
    assert [] == list(Path.cwd().iterdir())


def test_roles_and_scores_are_told(run) -> None:
    """If layers differ, the output shows their roles and the deciding scores."""
    run("calibrate", "--model", "toy")
    out = run("explain", "--model", "toy", "--policy", "profiled", "--profile", "profile.safetensors", "--text").out

    assert "role drafter, % of heads (the others: refiner)" in out
    assert "score that decides the role" in out


def test_the_plan_alone_needs_no_weights(run) -> None:
    """--no-generate works from the model's card."""
    ran = run("explain", "--model", "toy-weights", "--policy", "windowed", "--no-generate", "--text")

    assert 0 == ran.code
    assert "planned 3.2 KiB" in ran.out
    assert "the last scale attends to" not in ran.out


def test_without_matplotlib_it_says_what_to_install(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra before anything is generated."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ran = run(*TOY)

    assert 2 == ran.code
    assert "pip install 'scalekv[plot]'" in ran.complaint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layer", "3"], "there is no layer 3; this image has layers 0 to 2"),
        (["--head", "4"], "there is no head 4; this image has heads 0 to 3"),
        (["--row", "1"], "there is no row 1; this image has rows 0 to 0"),
        (["--policy", "all"], "explain takes one policy at a time; got all"),
    ],
)
def test_a_mistake_is_one_line(run, arguments: list[str], said: str) -> None:
    """An unknown layer, head or row is refused with those that exist."""
    ran = run(*TOY, *arguments)

    assert 2 == ran.code
    assert said in ran.complaint


class TestKeptTokens:
    def test_what_the_last_scale_finds(self, registry: Registry) -> None:
        """Of nine tokens the first four are visible to the last scale: maps 1x1 and 2x1, and one token of 2x3."""
        model, kept = toy.ToyCard().load(), KeptTokens()
        with compress(model, "windowed", "50%", options={"end": "first"}, observer=kept, registry=registry):
            model.generate(["3", "5"], seeds=[0, 1])

        assert [1.0, 2.0, 1.0] == kept.counts(layer=1, row=1)
        np.testing.assert_array_equal([[[1, 0, 0], [0, 0, 0]]], kept.on_map(2, layer=0, head=3))

    def test_a_policy_that_keeps_all_leaves_all(self, registry: Registry) -> None:
        """Without eviction the last scale sees every token."""
        model, kept = toy.ToyCard().load(), KeptTokens()
        with compress(model, "everything", observer=kept, registry=registry):
            model.generate(["3"], seeds=[0])

        assert [1.0, 2.0, 6.0] == kept.counts(layer=0)
        with pytest.raises(ValueError, match="there is no layer 3; the image had layers 0 to 2"):
            kept.counts(layer=3)
        with pytest.raises(ValueError, match="there is no head 4; the image had heads 0 to 3"):
            kept.counts(layer=0, head=4)

    def test_nothing_drawn_is_an_error(self) -> None:
        """Explaining without a generated image is an error."""
        with pytest.raises(ValueError, match="no image reached its last scale"):
            KeptTokens().counts(layer=0)


def test_held_share_is_of_what_was_seen(registry: Registry) -> None:
    """4 of 9 tokens after the last map that is read; everything before."""
    planned = plan_policy(registry.policy("windowed"), toy.GEOMETRY)

    np.testing.assert_allclose([[1.0] * 3, [1.0] * 3, [4 / 9] * 3], held_share(planned.plan))


def test_each_role_is_shown() -> None:
    """The plot shows the first, middle and last layer, and one layer of each role."""
    labels = np.zeros((4, 12, 2), dtype=np.int8)
    labels[2:, 7] = 1

    assert [0, 6, 7, 11] == typical_layers(LayerRoles(("refiner", "drafter", "nobody"), labels))


def test_the_panels_of_a_plan_have_the_same_columns(registry: Registry) -> None:
    """The history of a scale stands above its role in one column per scale; the first scale has no history."""
    model = toy.ToyCard().load()
    with calibrate(model, registry=registry) as measured:
        model.generate(["3"], seeds=[0])
    planned = plan_policy(registry.policy("profiled"), toy.GEOMETRY, profile=measured.profile())
    figure = figure_of_plan(planned)
    panels = figure.axes[:3]

    names = [label.get_text() for label in panels[0].get_xticklabels()]
    assert len(toy.GEOMETRY.schedule) == len(names)
    assert all(names == [label.get_text() for label in axis.get_xticklabels()] for axis in panels)
    assert all(len(names) == axis.get_images()[0].get_array().shape[1] for axis in panels)
    assert np.isnan(visible_share(planned.plan)[0]).all()
    assert (visible_share(planned.plan)[1:] == held_share(planned.plan)).all()


def test_kept_does_not_look_like_evicted(registry: Registry) -> None:
    """Kept and evicted tokens differ on black, grey and white images, and a legend names both."""
    planned, kept = plan_policy(registry.policy("windowed"), toy.GEOMETRY), KeptTokens()
    model = toy.ToyCard().load()
    with compress(model, "windowed", observer=kept, registry=registry):
        model.generate(["3"], seeds=[0])
    for grey in (0.0, 0.5, 1.0):
        image = torch.full((3, 32, 40), grey)
        shown = Explanation(planned=planned, kept=kept, image=image, layers=[0], head=0)
        figure = figure_of_kept(shown)
        picture, cover = figure.axes[-1].get_images()
        pale, (kept_alpha, evicted_alpha) = (
            picture.get_array(),
            (cover.get_array()[..., 3].max(), cover.get_array()[..., 3].min()),
        )

        assert pale.min() > 0.7
        assert (0.9, 0.0) == (pytest.approx(kept_alpha), evicted_alpha)
        assert ["kept by head 0", "evicted"] == [text.get_text() for text in figure.legends[0].get_texts()]
