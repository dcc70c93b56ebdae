"""What plugins offer: kinds of things, each under a name that has one owner."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from attrs import frozen

from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import BudgetAllocator, CacheCodec, LayerClassifier, TokenMerger, TokenSelector
from scalekv_core.errors import PluginError, ScaleKVError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.metric import Metric

HOOKS = {
    "policy": "scalekv_policies",
    "classifier": "scalekv_layer_classifiers",
    "allocator": "scalekv_budget_allocators",
    "selector": "scalekv_token_selectors",
    "merger": "scalekv_token_mergers",
    "codec": "scalekv_cache_codecs",
    "adapter": "scalekv_model_adapters",
    "model": "scalekv_image_models",
    "metric": "scalekv_metrics",
}
"""{kind: hook that offers it}."""

TYPES: dict[str, type] = {
    "policy": Policy,
    "classifier": LayerClassifier,
    "allocator": BudgetAllocator,
    "selector": TokenSelector,
    "merger": TokenMerger,
    "codec": CacheCodec,
    "adapter": ModelAdapter,
    "model": ModelCard,
    "metric": Metric,
}


@frozen(order=True)
class Owner:
    """A plugin and where it comes from."""

    plugin: str
    distribution: str = "this process"
    version: str = ""

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} ({f'{self.distribution} {self.version}'.strip()})"


@frozen
class Problem:
    """A plugin that is left out, and why."""

    owner: Owner
    reason: str

    def __str__(self) -> str:
        return f"{self.owner} is not in use: {self.reason}"


@frozen
class Offer:
    """What a plugin offers under one name."""

    kind: str
    name: str
    factory: Callable[..., Any]
    owner: Owner

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.owner}"

    def make(self) -> Any:
        """The object that the factory returns.

        Raises:
            PluginError: the factory failed, or returned something of another kind.
        """
        with foreign(f"{self} cannot be made"):
            made = self.factory()
        if not isinstance(made, TYPES[self.kind]):
            raise PluginError(f"{self} must be a {TYPES[self.kind].__name__}; got {type(made).__name__}")
        return made


@contextlib.contextmanager
def foreign(what: str) -> Iterator[None]:
    """A block that runs a plugin's code: any exception becomes a PluginError that names the plugin.

    Errors of ours and Ctrl-C pass through.
    """
    try:
        yield
    except (ScaleKVError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(f"{what} ({': '.join([type(error).__name__, *str(error).splitlines()[:1]])})") from error


def summary_of(thing: Any) -> str:
    """The first line of an object's docstring."""
    text = inspect.getdoc(thing) or ""
    return text.splitlines()[0] if text else ""
