"""A study of the toy model under policies that take no time, with metrics of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from attrs import frozen
from torch import Tensor

import scalekv_policies
from scalekv_core import hookimpl
from scalekv_core.compare import plugin
from scalekv_core.compare.question import Question
from scalekv_core.compare.study import Study
from scalekv_core.compare.study_plan import plan_study
from scalekv_core.compare.worker import Loading
from scalekv_core.models.metric import Metric, Pair, PairMetric
from scalekv_core.plugins.registry import Registry
from scalekv_core.testing import toy

StudyIn = Callable[..., Study]


@frozen
class Brightness(PairMetric):
    """Mean of the compressed image; not a number for seed 1."""

    def measure(self, pair: Pair) -> Tensor:
        bright = pair.compressed.images.flatten(1).mean(dim=1).double()
        return torch.where(torch.tensor(pair.seeds) == 1, torch.nan, bright)


@frozen
class Broken(PairMetric):
    """A metric with a mistake in it."""

    def measure(self, pair: Pair) -> Tensor:
        raise KeyError("no such image")


@hookimpl
def scalekv_metrics() -> Mapping[str, Callable[[], Metric]]:
    return {"brightness": Brightness, "broken": Broken}


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The toy, every policy that ships, the metrics that ship and one of a third party."""
    mine = SimpleNamespace(__name__="third-party", scalekv_metrics=scalekv_metrics)
    return Registry.of(toy, scalekv_policies, plugin, mine)


def asked(**changes: object) -> Question:
    """A small question."""
    given = {
        "models": ("toy",),
        "policies": ("full", "uniform"),
        "budgets": ("50%", "20%"),
        "prompts": {"toy": ("0", "1")},
        "metrics": ("psnr", "agreement", "forced-kl"),
    }
    return Question(**{**given, **changes})  # type: ignore[arg-type]


def planned(question: Question, registry: Registry) -> StudyIn:
    """folder -> the study, ready to run; its models are loaded and its settings planned before."""
    loading = Loading(question=question, weights={})
    models = {name: loading.model(name, registry) for name in question.models}
    plan = plan_study(question, models, registry)
    return partial(Study.begin, plan, models=models, loading=loading, registry=registry)


@pytest.fixture
def study_in(registry: Registry) -> StudyIn:
    """folder, question -> a study that is ready to run."""
    return lambda folder, question=None, **how: planned(question or asked(), registry)(folder, **how)
