"""The custom node for ComfyUI, loaded as ComfyUI loads it and run through its protocol; ComfyUI itself is not installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from scalekv_core import InputError, Pipeline, Registry, shared_registry
from scalekv_core.testing import toy

from .pages import ROOT

FOLDER = ROOT / "docs" / "examples" / "comfyui-scalekv"
WORKFLOW = json.loads((FOLDER / "workflows" / "captions.json").read_text(encoding="utf-8"))


@pytest.fixture
def nodes() -> Iterator[dict[str, type]]:
    """The nodes, imported from the folder as a package that is named by its path."""
    name = str(FOLDER)
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    assert set(package.NODE_CLASS_MAPPINGS) == set(package.NODE_DISPLAY_NAME_MAPPINGS)
    yield package.NODE_CLASS_MAPPINGS
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def run(nodes: dict[str, type], workflow: dict[str, Any]) -> dict[str, Any]:
    """{number: results} of every node of ours, as ComfyUI runs them: a link is [number, output]."""
    done: dict[str, Any] = {}
    for number, step in workflow.items():
        if step["class_type"] not in nodes:
            continue
        node = nodes[step["class_type"]]()
        inputs = {
            name: done[value[0]][value[1]] if isinstance(value, list) else value
            for name, value in step["inputs"].items()
        }
        result = getattr(node, node.FUNCTION)(**inputs)
        done[number] = result["result"] if isinstance(result, dict) else result
        assert len(done[number]) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    return done


def test_the_nodes_follow_the_protocol(nodes: dict[str, type]) -> None:
    """Each says its inputs, outputs, function and category; every input is a menu, or a type with options."""
    for node in nodes.values():
        assert "scalekv" == node.CATEGORY
        assert callable(getattr(node, node.FUNCTION))
        declared = node.INPUT_TYPES()
        assert {"required"} <= set(declared) <= {"required", "optional"}
        for kind, *options in (value for inputs in declared.values() for value in inputs.values()):
            assert isinstance(kind, str) or (isinstance(kind, list) and kind)
            assert all(isinstance(one, dict) for one in options)
            if isinstance(kind, list) and options and "default" in options[0]:
                assert options[0]["default"] in kind
        accepted = [name for inputs in declared.values() for name in inputs]
        code = getattr(node, node.FUNCTION).__code__
        assert accepted == list(code.co_varnames[1 : code.co_argcount])


def test_menus_are_those_of_the_registry(nodes: dict[str, type]) -> None:
    """Every installed model, policy and codec can be chosen."""
    registry = shared_registry()
    chosen = nodes["ScaleKVPolicy"].INPUT_TYPES()["required"]

    assert registry.names("model") == nodes["ScaleKVLoadModel"].INPUT_TYPES()["required"]["model"][0]
    assert ["unmodified", *registry.names("policy")] == chosen["policy"][0]
    assert registry.names("codec") == chosen["codec"][0][1:]


def test_the_workflow_runs(nodes: dict[str, type]) -> None:
    """Two images as ComfyUI passes them on, and the report as text."""
    done = run(nodes, WORKFLOW)
    images, report = done["3"]

    assert (2, 64, 64, 3) == tuple(images.shape)
    assert torch.float32 == images.dtype
    assert torch.device("cpu") == images.device
    assert 0 <= images.min() < images.max() <= 1
    assert "fold codec=int8" == report.as_dict()["policy"]
    assert done["4"][0].startswith("fold codec=int8, 10% of history\nunmodified ")


def test_a_clip_is_passed_on_frame_by_frame(nodes: dict[str, type], monkeypatch: pytest.MonkeyPatch) -> None:
    """One clip after the other; the preview is the last frame."""
    shown: list[Any] = []

    class Bar:
        def __init__(self, total: int) -> None: ...

        def update_absolute(self, value: int, total: int, preview: tuple[str, Any, int]) -> None:
            shown.append(preview[1])

    monkeypatch.setitem(sys.modules, "comfy", ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.utils", SimpleNamespace(ProgressBar=Bar))
    management = SimpleNamespace(throw_exception_if_processing_interrupted=lambda: None)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    pipe = Pipeline.from_pretrained("toy-video", policy="toy-latest", budget="60%", registry=Registry.of(toy))
    node = nodes["ScaleKVGenerate"]()
    images, _ = node.generate(pipe, (pipe.policy, "60%"), "3", 0, 2, -1.0)
    assert (2 * 2, 24, 32, 3) == tuple(images.shape)
    wanted = pipe("3", output="tensor").images
    assert torch.equal(wanted[0].movedim(0, -1), images[:2])
    assert (wanted[0, :, -1, 4, 4] * 255).round().tolist() == list(shown[-1].getpixel((4, 4)))


def test_links_lead_to_outputs_of_their_type(nodes: dict[str, type]) -> None:
    """What the workflow links fits, as ComfyUI checks."""
    for step in (step for step in WORKFLOW.values() if step["class_type"] in nodes):
        declared = {
            name: kind
            for inputs in nodes[step["class_type"]].INPUT_TYPES().values()
            for name, (kind, *_) in inputs.items()
        }
        for name, value in step["inputs"].items():
            if isinstance(value, list):
                assert declared[name] == nodes[WORKFLOW[value[0]]["class_type"]].RETURN_TYPES[value[1]]
            elif isinstance(declared[name], list):
                assert value in declared[name]


def test_the_unmodified_model_has_no_report(nodes: dict[str, type]) -> None:
    """And the text says so; an empty budget is the policy's own."""
    workflow = {
        **WORKFLOW,
        "2": {"class_type": "ScaleKVPolicy", "inputs": {"policy": "unmodified", "budget": "", "codec": "int8"}},
    }
    done = run(nodes, workflow)

    assert ((None, None),) == done["2"]
    assert "unmodified model: nothing was compressed" == done["4"][0]


def test_mistakes_are_one_line(nodes: dict[str, type]) -> None:
    """A budget is checked before anything runs; a prompt, when it is read."""
    validate = nodes["ScaleKVPolicy"].VALIDATE_INPUTS

    assert validate(budget="10%") is True is validate(budget="")
    assert validate(budget="lots").startswith("budget 'lots' is not understood; ")
    wrong = {**WORKFLOW, "3": {**WORKFLOW["3"], "inputs": {**WORKFLOW["3"]["inputs"], "prompt": "x" * 10_000}}}
    with pytest.raises(InputError) as refused:
        run(nodes, wrong)
    assert 1 == len(str(refused.value).splitlines())


class Interrupted(Exception):
    """What ComfyUI raises when its stop button was pressed."""


def test_previews_and_the_stop_button(nodes: dict[str, type], monkeypatch: pytest.MonkeyPatch) -> None:
    """After every scale the progress bar gets an image; when the button is pressed, the model is free and as before."""
    shown: list[tuple[int, int, Any]] = []
    pressed: list[bool] = []

    def throw_exception_if_processing_interrupted() -> None:
        if pressed and len(shown) >= 3:
            raise Interrupted

    bar = SimpleNamespace(update_absolute=lambda value, total, preview: shown.append((value, total, preview)))
    parts = {
        "comfy": {},
        "comfy.utils": {"ProgressBar": lambda total: bar},
        "comfy.model_management": {
            "throw_exception_if_processing_interrupted": throw_exception_if_processing_interrupted
        },
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    one = {**WORKFLOW, "3": {**WORKFLOW["3"], "inputs": {**WORKFLOW["3"]["inputs"], "images": 1}}}
    loaded = run(nodes, {"1": one["1"], "2": one["2"]})
    generate = nodes["ScaleKVGenerate"]()

    def image() -> torch.Tensor:
        inputs = {name: value for name, value in one["3"]["inputs"].items() if not isinstance(value, list)}
        return generate.generate(model=loaded["1"][0], policy=loaded["2"][0], **inputs)[0]

    expected = image()
    assert [(i + 1, 7) for i in range(7)] == [(value, total) for value, total, _ in shown]
    assert all(("JPEG", (64, 64), 512) == (form, picture.size, side) for *_, (form, picture, side) in shown)
    shown.clear()
    pressed.append(True)
    with pytest.raises(Interrupted):
        image()
    assert 3 == len(shown)
    pressed.clear()
    assert torch.equal(expected, image())
