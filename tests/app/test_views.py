"""What the page shows, without its toolkit: the plan first, then each scale, both images, and errors in one line."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from html import unescape

import pytest
import torch
from attrs import evolve
from PIL import Image

from scalekv_core import ImageModel, Registry, ScaleKVError, compress
from scalekv_core.app import pictures
from scalekv_core.app.engine import Engine, Settings
from scalekv_core.app.form import Form
from scalekv_core.app.turns import FAILED, Turns
from scalekv_core.app.views import Shown, Views
from scalekv_core.testing import toy


def shown(views: Views, form: Form) -> list[Shown]:
    return list(views.generating(form, "visitor"))


def text(html: str) -> str:
    return unescape(re.sub("<[^>]*>", " ", html))


def files(html: str) -> dict[str, bytes]:
    """The contents that the links of a piece of HTML save."""
    links = re.findall(r'download="([^"]*)" href="data:[^,]*;base64,([^"]*)"', html)
    return {name: b64decode(content) for name, content in links}


def test_the_plan_is_shown_before(views: Views, form: Form) -> None:
    """The plan is in the hint, as bars, and as a share per layer and scale; no model is loaded."""
    before = views.before(form)

    assert "The cache will hold" in before.hint
    assert "after generating" in text(before.bars)
    assert re.search(r"unmodified .*100\.0 %", text(before.bars))
    assert "peak" in text(before.parts)
    assert views.engine.plan(views.engine.read(form)).planned.plan.layers == before.layers
    assert views.engine._pipeline is None


def test_a_smaller_budget_is_a_shorter_bar(views: Views, form: Form) -> None:
    """The plan follows the budget."""
    widths = [
        float(re.search(r"skv-bar-planned.*?width:([0-9.]+)%", views.before(evolve(form, budget=budget)).bars)[1])
        for budget in ("25%", "50%", "100%")
    ]

    assert sorted(set(widths)) == widths


@pytest.mark.parametrize("budget", ["lots", "0%", "400%"])
def test_a_wrong_budget_is_one_line(views: Views, form: Form, budget: str) -> None:
    """The line stands in place of the plan, and in place of images."""
    with pytest.raises(ScaleKVError) as refused:
        views.engine.plan(views.engine.read(evolve(form, budget=budget)))
    line = str(refused.value)

    assert line in text(views.before(evolve(form, budget=budget)).hint)
    assert line in text(shown(views, evolve(form, budget=budget))[-1].status)


def test_both_images_are_generated(views: Views, form: Form) -> None:
    """They equal the images that the model generates by itself and in a session."""
    last = shown(views, form)[-1]

    assert not last.busy
    assert last.result is not None
    assert views.engine._pipeline is not None
    model = views.engine._pipeline.model
    unmodified = model.generate(["3"], seeds=[5]).images[0]
    with compress(model, "toy-latest", registry=views.engine.registry):
        compressed = model.generate(["3"], seeds=[5]).images[0]
    assert torch.equal(unmodified, last.result.unmodified.image)
    assert torch.equal(compressed, last.result.compressed.image)
    assert last.result.report.images[-1].as_planned
    assert "after generating" not in text(last.bars)


def test_what_is_downloaded_has_its_record(views: Views, form: Form) -> None:
    """The record is the same in the PNG and beside it; it has the call, and no path."""
    last = shown(views, form)[-1]
    assert last.result is not None
    saved = files(last.downloads)

    assert {"compressed.png", "unmodified.png", "record.json"} == set(saved)
    record = json.loads(saved["record.json"])
    assert record == pictures.record_of(saved["compressed.png"]) == pictures.record_of(saved["unmodified.png"])
    assert ("toy", "3", 5) == (record["model"]["name"], record["prompt"], record["seed"])
    assert record["memory"]["resident_bytes"] == max(last.result.report.images[-1].resident)
    assert record["command"].startswith("scalekv generate --model toy")
    with Image.open(io.BytesIO(saved["compressed.png"])) as image:
        assert pictures.picture(last.result.compressed.image).tobytes() == image.convert("RGB").tobytes()


def test_a_clip_is_shown_as_its_contact_sheet(views: Views) -> None:
    """While it is generated, when it is done, and as a file; the call in Python writes the clip."""
    form = Form(model="toy-video", policy="toy-latest", budget="60%", prompt="3", seed="5")
    steps = shown(views, form)
    result = steps[-1].result
    assert result is not None, steps[-1].status
    assert (3, 2, 24, 32) == result.compressed.image.shape
    saved = files(steps[-1].downloads)
    with Image.open(io.BytesIO(saved["compressed.png"])) as image:
        assert (2 * 32, 24) == image.size
    python = json.loads(saved["record.json"])["python"]
    assert 'output="tensor")\nscalekv_core.save_clip(result.images[0], "compressed.gif", fps=4)' in python


def test_kept_tokens_of_a_layer(views: Views, form: Form) -> None:
    """Before an image the page shows the plan; after it, the kept tokens of each map."""
    result = shown(views, form)[-1].result
    maps = len(views.engine.read(form).job.batch.geometry.schedule)

    assert 0 == views.layer(None, form, 1).count("<figure>")
    assert maps - 1 == views.layer(result, form, 1).count("<figure>")
    assert "Layer 1" in views.layer(result, form, 1)


def test_another_policy_uses_the_same_unmodified_image(views: Views, form: Form) -> None:
    """The unmodified image is generated once for each prompt and seed."""
    first = shown(views, form)[-1].result
    second = shown(views, evolve(form, budget="50%"))[-1].result
    third = shown(views, evolve(form, prompt="4"))[-1].result

    assert first is not None
    assert second is not None
    assert third is not None
    assert first.unmodified is second.unmodified
    assert first.unmodified is not third.unmodified


def test_another_model_takes_the_place_of_the_first(views: Views, form: Form) -> None:
    """Only one model is in memory at a time."""
    shown(views, form)
    first = views.engine._pipeline
    events = shown(views, evolve(form, model="second"))

    assert any("Loading second" in event.status for event in events)
    assert views.engine._pipeline is not first
    assert events[-1].result is not None


def test_a_model_without_weights_is_one_line(views: Views, form: Form) -> None:
    """The line says how to start the page with weights; the next image is generated."""
    last = shown(views, evolve(form, model="unshipped"))[-1]

    assert "model 'unshipped' does not ship with weights; start the page with scalekv app" in text(last.status)
    assert not last.busy
    assert shown(views, form)[-1].result is not None


def test_a_long_prompt_is_one_line(views: Views, form: Form) -> None:
    """The line is the model's own message."""
    last = shown(views, evolve(form, model="toy", prompt="a" * 10_000))[-1]

    assert 'role="alert"' in last.status
    assert "Traceback" not in last.status


def test_what_is_typed_is_never_markup(views: Views, form: Form) -> None:
    """Typed text is escaped in messages and in calls."""
    wrong = views.before(evolve(form, budget="<b>${1}</b>"))
    shell = views.before(evolve(form, prompt="<script>")).shell

    assert "<b>" not in wrong.hint
    assert "'<script>'" in shell


def test_a_bug_shows_no_trace(views: Views, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is free after the bug, and the next image is generated."""
    shown(views, form)
    assert views.engine._pipeline is not None
    model = views.engine._pipeline.model
    with monkeypatch.context() as patched:
        patched.setattr(model, "generate", lambda *_, **__: 1 / 0)
        broken = shown(views, evolve(form, seed="6"))[-1]

    assert FAILED in text(broken.status)
    assert not broken.busy
    assert shown(views, evolve(form, seed="6"))[-1].result is not None


def test_what_is_not_finite_is_accepted_only_if_told(
    registry: Registry, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option of the command line reaches the model's card."""
    told: list[bool] = []
    load = toy.ToyCard.load

    def noting(card: toy.ToyCard, *, allow_nonfinite: bool = False, **how: object) -> ImageModel:
        told.append(allow_nonfinite)
        return load(card, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(toy.ToyCard, "load", noting)
    for allowed in (False, True):
        engine = Engine(registry, Settings(model="toy", policy="toy-latest", allow_nonfinite=allowed))
        turns = Turns(engine.work, describe=lambda error: None)
        list(turns.run(engine.read(form), "visitor"))
        turns.close()

    assert [False, True] == told
