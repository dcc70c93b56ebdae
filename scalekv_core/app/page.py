"""The page: fields on the left, images and figures on the right. Only this module and ``server`` know gradio."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import attrs
import gradio as gr
from gradio.components.imageslider import SliderData
from gradio.data_classes import ImageData
from PIL import Image

from scalekv_core.app import fragments, menus, pictures
from scalekv_core.app.engine import Result
from scalekv_core.app.form import Form
from scalekv_core.app.views import Shown, Views
from scalekv_core.errors import ScaleKVError
from scalekv_core.planning.budget import Budget

HEADER = (
    '<div class="skv-header"><h1>scalekv</h1><p>One image twice: from the unmodified model, and with a compressed KV '
    "cache.</p></div>"
)
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Of every event: words say what is going on, and the page is the only door."""
FIELDS = tuple(field.name for field in attrs.fields(Form))


def build(views: Views) -> gr.Blocks:
    """The page, not yet listening."""
    settings = views.engine.settings
    with gr.Blocks(title="scalekv", analytics_enabled=False) as page:
        _html(HEADER)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                fields = _fields(views)
                given = [fields[name] for name in FIELDS]
                first = views.before(Form(model=settings.model, policy=settings.policy))
                hint = _html(first.hint, elem_id="hint")
                with gr.Row():
                    go = gr.Button("Generate", variant="primary", elem_id="generate", scale=3, min_width=120)
                    cancel = gr.Button("Cancel", elem_id="cancel", scale=1, min_width=90, interactive=False)
                status = _html(elem_id="status")
            with gr.Column(scale=7, min_width=320):
                with gr.Row(visible=False, equal_height=True, elem_id="both") as both:
                    slider = _slider()
                    difference = _html(elem_id="difference")
                stage = _html(fragments.EMPTY_STAGE, elem_id="stage")
                downloads = _html(elem_id="downloads")
                with gr.Column(elem_classes="skv-card") as memory_card:
                    _html("<h2>Memory of the cache</h2>")
                    bars = _html(first.bars, elem_id="bars")
                    parts = _html(first.parts, elem_id="parts")
                with gr.Column(elem_classes="skv-card") as kept_card:
                    _html("<h2>Kept tokens</h2>")
                    layer = gr.Slider(
                        0, max(1, first.layers - 1), 0, step=1, label="Layer", elem_id="layer", buttons=[]
                    )
                    kept = _html(first.shares, elem_id="kept")
                with gr.Column(elem_classes="skv-card") as call_card:
                    _html("<h2>The same call</h2>")
                    shell = _code(first.shell, "shell")
                    python = _code(first.python, "python")
        result = gr.State(None, time_to_live=3600)

        def plan(number: int, *values: Any) -> list[Any]:
            before = views.before(_form(values), int(number))
            fresh = gr.Slider(maximum=max(1, before.layers - 1), value=min(int(number), before.layers - 1))
            shown = [before.hint, before.bars, before.parts, fresh, before.shares, before.shell, before.python, None]
            return shown + [gr.Column(visible=before.valid)] * len(cards)

        cards = [memory_card, kept_card, call_card]
        planned = [hint, bars, parts, layer, kept, shell, python, result, *cards]
        gr.on(
            [field.change for field in given],
            plan, [layer, *given], planned, trigger_mode="always_last", concurrency_limit=4, **QUIET,
        )  # fmt: skip

        def generate(visitor: gr.Request, *values: Any) -> Iterator[list[Any]]:
            for shown in views.generating(_form(values), _name_of(visitor)):
                yield _updates(shown)

        seen = [status, go, cancel, stage, both, slider, difference, downloads, bars, result]
        made = go.click(generate, given, seen, trigger_mode="once", concurrency_limit=None, **QUIET)

        def show_layer(found: Result | None, number: int, *values: Any) -> str:
            return views.layer(found, _form(values), int(number))

        for happened in (layer.input, made.then):
            happened(show_layer, [result, layer, *given], kept, concurrency_limit=4, **QUIET)

        def stop(visitor: gr.Request) -> None:
            views.turns.cancel(_name_of(visitor))

        cancel.click(stop, queue=False, **QUIET)
        page.unload(stop)
        _connect(fields, views)
    return page


def theme() -> Any:
    """Colours and fonts; all of them are on the visitor's machine."""
    accent = "#2457c5"
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill=accent,
        button_primary_background_fill_dark=accent,
        button_primary_background_fill_hover="#1c479f",
        button_primary_background_fill_hover_dark="#1c479f",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        slider_color=accent,
        slider_color_dark="#8ab0ff",
        body_background_fill_dark="#14171d",
        block_background_fill_dark="#1c212a",
    )


def _form(values: tuple[Any, ...]) -> Form:
    return Form(**dict(zip(FIELDS, values, strict=True)))


def _name_of(visitor: gr.Request) -> str:
    """One per open page: it is new after a reload."""
    return str(visitor.session_hash)


def _html(content: str = "", **how: Any) -> Any:
    """A piece of the page that ``style.css`` alone dresses."""
    return gr.HTML(content, apply_default_css=False, **how)


def _code(text: str, language: Any) -> Any:
    """Lines to copy."""
    return gr.Code(
        text, language=language, label=language.capitalize(), interactive=False, elem_id=language, lines=1,
        buttons=["copy"], show_line_numbers=False, wrap_lines=True,
    )  # fmt: skip


def _fields(views: Views) -> dict[str, Any]:
    """The components of the form by the names of its fields, and what else stands among them."""
    registry, settings = views.engine.registry, views.engine.settings
    chosen = menus.model_fields(registry, settings.model)
    fields: dict[str, Any] = {}
    with gr.Group():
        fields["model"] = gr.Dropdown(menus.models(registry), value=settings.model, label="Model", elem_id="model")
        fields["about_model"] = _html(fragments.note(chosen.summary))
        fields["prompt"] = gr.Textbox(
            label="Prompt", placeholder=chosen.example, lines=2, max_lines=6, elem_id="prompt", submit_btn=False
        )
        with gr.Row():
            fields["seed"] = gr.Textbox(label="Seed", placeholder="0", elem_id="seed", min_width=80)
            fields["guidance"] = gr.Textbox(
                label="Guidance", placeholder=chosen.guidance, elem_id="guidance", min_width=80
            )
        with gr.Row():
            fields["aspect"] = gr.Dropdown(
                chosen.aspects, value=menus.OWN, label="Aspect ratio", elem_id="aspect", min_width=80
            )
            fields["size"] = gr.Dropdown(
                chosen.sizes, value=menus.OWN, label="Size", elem_id="size", min_width=80, visible=len(chosen.sizes) > 1
            )
    with gr.Group():
        fields["policy"] = gr.Dropdown(
            menus.policies(registry), value=settings.policy, label="Policy", elem_id="policy"
        )
        fields["about_policy"] = _html(fragments.note(menus.policy_summary(registry, settings.policy)))
        fields["codec"] = gr.Dropdown(menus.codecs(registry), value=menus.OWN, label="Codec", elem_id="codec")
        fields["budget"] = gr.Textbox(
            label="Budget", info="Such as 10%, 10% of all, 650 tokens or 4GiB", elem_id="budget",
            placeholder=registry.policy(settings.policy).budget,
        )  # fmt: skip
        fields["percent"] = gr.Slider(
            1, 100, _percent(registry.policy(settings.policy).budget) or 10, step=0.5, label="Percent of the history",
            elem_id="percent", buttons=[],
        )  # fmt: skip
    return fields


def _slider() -> Any:
    """Both images over each other. They are sent as data URLs, where the component would write files."""

    def as_data(pair: tuple[Image.Image, Image.Image] | None) -> SliderData | None:
        if pair is None:
            return None
        sent = [ImageData(url=pictures.data_url(pictures.png(image), "image/png")) for image in pair]
        return SliderData(root=(sent[0], sent[1]))

    made = gr.ImageSlider(
        label="unmodified | compressed", interactive=False, elem_id="slider", buttons=["fullscreen"], scale=2,
        min_width=280,
    )  # fmt: skip
    made.postprocess = as_data
    return made


def _updates(shown: Shown) -> list[Any]:
    """What each of the components on the right becomes."""
    done = shown.result is not None
    return [
        shown.status,
        gr.Button(interactive=not shown.busy),
        gr.Button(interactive=shown.busy),
        shown.stage,
        gr.Row(visible=done),
        shown.pair,
        shown.difference,
        shown.downloads,
        shown.bars or gr.skip(),
        shown.result,
    ]


def _connect(fields: dict[str, Any], views: Views) -> None:
    """What one field does to another."""
    registry = views.engine.registry

    def of_model(name: str) -> list[Any]:
        with contextlib.suppress(ScaleKVError):  # what is wrong with it is said by the plan
            about = menus.model_fields(registry, name)
            return [
                fragments.note(about.summary),
                gr.Textbox(placeholder=about.example),
                gr.Textbox(placeholder=about.guidance),
                gr.Dropdown(about.aspects, value=menus.OWN),
                gr.Dropdown(about.sizes, value=menus.OWN, visible=len(about.sizes) > 1),
            ]
        return [gr.skip()] * 5

    def of_policy(name: str, budget: str) -> list[Any]:
        with contextlib.suppress(ScaleKVError):
            own = registry.policy(name).budget
            return [
                fragments.note(menus.policy_summary(registry, name)),
                gr.Textbox(placeholder=own),
                slide(budget or own),
            ]
        return [gr.skip()] * 3

    def slide(budget: str) -> Any:
        return _percent(budget) or gr.skip()

    changed = [fields[name] for name in ("about_model", "prompt", "guidance", "aspect", "size")]
    fields["model"].input(of_model, fields["model"], changed, **QUIET)
    changed = [fields[name] for name in ("about_policy", "budget", "percent")]
    fields["policy"].input(of_policy, [fields["policy"], fields["budget"]], changed, **QUIET)
    fields["percent"].input(lambda percent: f"{percent:g}%", fields["percent"], fields["budget"], queue=False, **QUIET)
    fields["budget"].input(slide, fields["budget"], fields["percent"], queue=False, **QUIET)


def _percent(text: str) -> float | None:
    """Where the slider stands for a budget; None if it is no share of the history."""
    with contextlib.suppress(ScaleKVError):
        budget = Budget.parse(text)
        if budget.unit == "history" and 1 <= 100 * budget.amount <= 100:
            return float(100 * budget.amount)
    return None
