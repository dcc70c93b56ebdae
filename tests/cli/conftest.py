"""A plugin whose models and policies can fail on request, and a fixture that runs the command line in this process."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from attrs import field, frozen
from attrs.validators import ge, in_
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

import scalekv_core
from scalekv_core import hookimpl, ops
from scalekv_core.cli import main
from scalekv_core.contracts.defaults import Everything
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import LayerClassifier, TokenSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.errors import CheckpointError
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.models.weights import WeightsFormat
from scalekv_core.plugins import registry as registries
from scalekv_core.plugins.offers import Owner, Problem
from scalekv_core.plugins.registry import Registry
from scalekv_core.testing import toy

# A module that is first imported while a test replaces the registry would keep the replacement.
for _module in pkgutil.walk_packages(scalekv_core.__path__, "scalekv_core."):
    needs_extra = _module.name == "scalekv_core.app.page" and importlib.util.find_spec("gradio") is None
    if not _module.name.endswith("__main__") and not needs_extra:
        importlib.import_module(_module.name)

happening: list[Callable[[], None]] = []
"""Functions that run in every second attention of the model 'toy-trouble'."""
models: list[ImageModel] = []
"""Every 'toy-trouble' that has generated."""


@frozen(kw_only=True)
class Window(TokenSelector):
    """The last tokens, at least two of them."""

    window: int = field(default=2, validator=ge(1))
    end: Literal["last", "first"] = field(default="last", validator=in_(("last", "first")))

    def least(self, schedule: Any, scale: int) -> int:
        return min(2, schedule.seen[scale])

    def select(self, view: CacheView, keep: int) -> torch.Tensor:
        start = 0 if self.end == "first" else view.tokens - keep
        return ops.all_tokens(view.k, start, start + keep)


@frozen(kw_only=True)
class Drafters(LayerClassifier):
    """Makes the first layer a drafter."""

    needs_profile: ClassVar[bool] = True

    def classify(self, profile: Any, geometry: Any) -> LayerRoles:
        labels = np.ones((len(geometry.schedule), geometry.layers, geometry.heads), dtype=np.int8)
        labels[:, 0] = 0
        return LayerRoles(("drafter", "refiner"), labels, scores=profile.current_mass)


class Troubled(toy.ToyImageModel):
    """The toy model with functions that run in its second layer."""

    def __init__(self, module: toy.ToyModel) -> None:
        super().__init__(module)
        self.name = "toy-trouble"
        module.blocks[1].qkv.register_forward_hook(self._happen)

    def _happen(self, *_: Any) -> None:
        for happen in happening:
            happen()

    def generate(self, *args: Any, **kwargs: Any) -> Generation:
        models.append(self)
        return super().generate(*args, **kwargs)


@frozen(kw_only=True)
class TroubleCard(toy.ToyCard):
    """The card of Troubled."""

    def load(self, **kwargs: Any) -> ImageModel:
        return Troubled(super().load(**kwargs).module)  # type: ignore[arg-type]


@frozen
class ToyFormat(WeightsFormat):
    """The files of the toy model."""

    kind: ClassVar[str] = "toy"
    marker: ClassVar[str] = "places.weight"


@frozen(kw_only=True)
class WeightsCard(toy.ToyCard):
    """A toy model that is loaded from a file."""

    needs_weights: ClassVar[bool] = True
    weights: str = "scalekv has no place to fetch them from"

    @property
    def formats(self) -> tuple[WeightsFormat, ...]:
        return (ToyFormat(),)

    def load(self, *, weights: Path | None = None, **kwargs: Any) -> ImageModel:
        model = super().load(**kwargs)
        assert weights is not None
        try:
            model.module.load_state_dict(load_file(weights))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint {weights} cannot be used: {type(error).__name__}") from error
        return model


class Plugin:
    """The models, policies and parts that the tests need beside the toy plugin."""

    __name__ = "tests"

    @hookimpl
    def scalekv_policies(self) -> Mapping[str, Callable[[], Policy]]:
        return {"windowed": windowed, "profiled": profiled, "everything": everything}

    @hookimpl
    def scalekv_token_selectors(self) -> Mapping[str, Callable[[], TokenSelector]]:
        return {"windowed": Window}

    @hookimpl
    def scalekv_image_models(self) -> Mapping[str, Callable[[], Any]]:
        return {"toy-trouble": TroubleCard, "toy-weights": WeightsCard}


def windowed() -> Policy:
    """Tokens of a window."""
    return Policy(name="windowed", allocator=toy.Even(), selector=Window(), budget="50%", paper="Window et al. 2026")


def profiled() -> Policy:
    """A policy with drafters and refiners."""
    return Policy(name="profiled", classifier=Drafters(), allocator=toy.Even(), selector=Window(), budget="50%")


def everything() -> Policy:
    """A policy that keeps everything."""
    return Policy(name="everything", allocator=Everything(), selector=Window(), budget="100%")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry that the command line sees: the toy plugin, and the one above."""
    made = Registry.of(toy, Plugin())
    monkeypatch.setattr(registries, "shared_registry", lambda: made)
    return made


@pytest.fixture
def broken(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Problem:
    """A problem of a plugin that is not in use; the other plugins work."""
    problem = Problem(Owner("bad", "scalekv-bad", "0.1"), "it does not import (ImportError: no numpy)")
    made = Registry(registry.offers, registry.owners, (problem,))
    monkeypatch.setattr(registries, "shared_registry", lambda: made)
    return problem


@frozen
class Ran:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The only line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def run(
    registry: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Runs ``scalekv`` with these arguments in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def scalekv(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), captured.out, captured.err)

    return scalekv


@pytest.fixture
def trouble() -> Iterator[Callable[..., list[ImageModel]]]:
    """Makes an error happen while 'toy-trouble' generates, after so many scales; returns the models that have
    generated.
    """

    def happen(error: BaseException, *, after: int) -> list[ImageModel]:
        calls = iter(range(10**6))

        def maybe() -> None:
            if next(calls) >= after:
                raise error

        happening.append(maybe)
        return models

    yield happen
    happening.clear()
    models.clear()


@pytest.fixture
def picture() -> Callable[[str | Path], NDArray[np.uint8]]:
    """Reads a picture: (H, W, 3)."""

    def read(path: str | Path) -> NDArray[np.uint8]:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    return read
