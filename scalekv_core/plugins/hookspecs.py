"""The hooks that a plugin may implement. Each returns a mapping {name: factory}, so that every name has a known owner.

A plugin is a module (or object) with functions of these names, marked by ``scalekv_core.hookimpl`` and announced as an
entry point of the group ``scalekv``. A factory is anything that returns the strategy when called without arguments:
usually the attrs class itself. Its options are the fields of what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from scalekv_core.contracts.adapter import ModelAdapter
    from scalekv_core.contracts.policy import Policy
    from scalekv_core.contracts.strategies import (
        BudgetAllocator,
        CacheCodec,
        LayerClassifier,
        TokenMerger,
        TokenSelector,
    )
    from scalekv_core.models.card import ModelCard
    from scalekv_core.models.metric import Metric

PROJECT = "scalekv"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def scalekv_policies() -> Mapping[str, Callable[[], Policy]]:
    """Whole policies: what ``--policy NAME`` stands for."""
    raise NotImplementedError


@hookspec
def scalekv_layer_classifiers() -> Mapping[str, Callable[[], LayerClassifier]]:
    """Layer classifiers: which role each layer and head plays at each scale."""
    raise NotImplementedError


@hookspec
def scalekv_budget_allocators() -> Mapping[str, Callable[[], BudgetAllocator]]:
    """Budget allocators: how much each layer and head may hold."""
    raise NotImplementedError


@hookspec
def scalekv_token_selectors() -> Mapping[str, Callable[[], TokenSelector]]:
    """Token selectors: which tokens are kept."""
    raise NotImplementedError


@hookspec
def scalekv_token_mergers() -> Mapping[str, Callable[[], TokenMerger]]:
    """Token mergers: what happens to evicted tokens."""
    raise NotImplementedError


@hookspec
def scalekv_cache_codecs() -> Mapping[str, Callable[[], CacheCodec]]:
    """Cache codecs: how kept keys and values are stored."""
    raise NotImplementedError


@hookspec
def scalekv_model_adapters() -> Mapping[str, Callable[[], ModelAdapter]]:
    """Model adapters: how scalekv attaches to a family of models."""
    raise NotImplementedError


@hookspec
def scalekv_image_models() -> Mapping[str, Callable[[], ModelCard]]:
    """Image models that the command line can load by name."""
    raise NotImplementedError


@hookspec
def scalekv_metrics() -> Mapping[str, Callable[[], Metric]]:
    """Metrics: how far compressed images are from the unmodified model's, or how good they are."""
    raise NotImplementedError
