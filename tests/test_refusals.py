"""Refusals that no other test provokes: each ends in one line, which says what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from scalekv_adapters.infinity.tiny.captions import parse
from scalekv_adapters.infinity.vae import BSQVAEConfig
from scalekv_adapters.shipped import fill_shipped
from scalekv_adapters.var.model import check_sampling
from scalekv_core import InputError, Sampling, ScaleKVError, load_model
from scalekv_core.cli.bench_setup import profile_of
from scalekv_core.compare.explain_plots import figure_of_kept
from scalekv_core.compare.further_metrics import MultiScaleSSIM, package
from scalekv_core.compare.pair_metrics import SSIM, ForcedKL
from scalekv_core.compare.prompts import MOST, MOST_BYTES, read_prompts
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.weights.files import read_file
from scalekv_core.models.weights.shards import files_of
from scalekv_core.models.weights.source import shape_of
from scalekv_core.planning.budget import _byte_unit
from scalekv_core.plugins.wrappers import refuse_wrapper
from scalekv_core.session.calibration import calibrate
from scalekv_core.testing import toy
from scalekv_core.testing.cases import ViewCase
from scalekv_core.testing.subjects import kind_in_time

PIXELS: Any = SimpleNamespace(
    model="toy",
    compressed=SimpleNamespace(images=torch.zeros(1, 3, 8, 8)),
    unmodified=SimpleNamespace(images=torch.zeros(1, 3, 8, 8), logits=None),
    forced=SimpleNamespace(logits=None),
)
"""A pair of images of 8 x 8 pixels without logits."""


class Bare(toy.ToyCard):
    """A card that states sizes and makes no model."""

    random = ModelCard.random


class Square(toy.ToyImageModel):
    """A model that keeps its shape."""

    name = "square"

    def __init__(self) -> None:
        pass

    set_shape = ImageModel.set_shape


REFUSALS: list[tuple[str, Callable[[], object]]] = [
    ("a caption is empty", lambda: parse("")),
    ("unknown form", lambda: parse("a circle red")),
    ("no published BSQ-VAE is called 'd99'", lambda: BSQVAEConfig.published("d99")),
    ("the shipped weights do not fit Linear", lambda: fill_shipped(nn.Linear(1, 1), {})),
    ("needs one guidance", lambda: check_sampling("var-tiny", Sampling(guidance=(1.0, 2.0)))),
    ("ships with its weights", lambda: load_model("var-tiny", weights=Path("x"))),
    ("--drafters replaces --profile", lambda: profile_of(SimpleNamespace(model="toy"), "0", toy.GEOMETRY)),  # type: ignore[arg-type]
    ("no image was generated", lambda: figure_of_kept(SimpleNamespace(kept=None, image=None))),  # type: ignore[arg-type]
    ("needs images of at least 176 pixels", lambda: MultiScaleSSIM().measure(PIXELS)),
    ("needs images of at least 11 pixels", lambda: SSIM().measure(PIXELS)),
    ("needs the logits of both models", lambda: ForcedKL().measure(PIXELS)),
    ("needs nowhere, which is not installed", lambda: package("nowhere.at.all", "metric 'lpips'")),
    ("there is no checkpoint", lambda: read_file(Path("nowhere.pth"))),
    ("there is no checkpoint", lambda: files_of(Path("nowhere"))),
    ("it lacks 'weight'", lambda: shape_of({}, "weight", 2)),
    ("wanted 2 dimensions", lambda: shape_of({"weight": torch.zeros(2)}, "weight", 2)),
    ("give compress the inner module|pass the Linear itself", lambda: refuse_wrapper(nn.DataParallel(nn.Linear(1, 1)))),
    (
        "has 4 scales; got forced tokens of 5",
        lambda: toy.ToyCard().load().generate(["1"], seeds=[0], forced=[None] * 5),
    ),  # type: ignore[list-item]
    ("cannot make its model with random weights", lambda: Bare().random()),
    ("generates square images of one size only", lambda: Square().set_shape(aspect="3:4")),
    ("is the last of maps", lambda: ViewCase(maps=toy.SCHEDULE, scale=3)),
    ("cannot be made", lambda: kind_in_time(lambda: 1 / 0, "mine")),
    ("byte unit 'ZB' is not known", lambda: _byte_unit("ZB")),
    ("a whole number of at least 1; got 0", lambda: calibrate(toy.ToyCard().load().module, queries=0).__enter__()),
]


@pytest.mark.parametrize(("message", "provoke"), REFUSALS, ids=[message[:30] for message, _ in REFUSALS])
def test_a_refusal_is_one_line(message: str, provoke: Callable[[], object]) -> None:
    """It holds these words."""
    with pytest.raises(ScaleKVError, match=message) as error:
        provoke()
    assert 1 == len(str(error.value).splitlines())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("many.txt", "\n".join(map(str, range(MOST + 1))), "a study takes at most"),
        ("large.txt", "x" * (MOST_BYTES + 1), "bytes; at most"),
        ("broken.csv", 'prompt\n"' + "x" * 200_000, "line 1: field larger"),
    ],
)
def test_a_prompt_file_that_is_too_large_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    """Before a study is made of it."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_prompts(tmp_path / name)


def test_several_indices_are_refused(tmp_path: Path) -> None:
    """Which of them is meant is not known."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors.index.json").write_text("{}")
    with pytest.raises(ScaleKVError, match="has several indices"):
        files_of(tmp_path)


@pytest.mark.parametrize(
    ("module", "function", "hidden"),
    [
        ("scalekv_core.compare.page.write", "_template", "jinja2"),
        ("scalekv_core.compare.page.write", "_plots", "plotly"),
    ],
)
def test_a_missing_extra_is_named(module: str, function: str, hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == hidden]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ImportError, match=rf"needs {hidden}, which is not installed; run: pip install"):
        getattr(sys.modules[module] if module in sys.modules else __import__(module, fromlist=["_"]), function)()
