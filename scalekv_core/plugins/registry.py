"""The registry: every strategy, adapter and image model by name, with the plugin that offers it."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import nn

from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.contracts.options import set_options
from scalekv_core.contracts.policy import PARTS, Policy
from scalekv_core.errors import (
    CheckpointError,
    InputError,
    PluginError,
    ScaleKVError,
    SessionError,
    shortened,
    unknown_name,
)
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.requests import read_device, read_dtype
from scalekv_core.plugins.adapters import OwnedAdapter
from scalekv_core.plugins.loading import Loader, installed_plugins
from scalekv_core.plugins.offers import TYPES, Offer, Owner, Problem
from scalekv_core.plugins.wrappers import refuse_wrapper
from scalekv_core.shapes.values import check_flag


@frozen(eq=False)
class Registry:
    """Everything that the loaded plugins offer.

    Attributes:
        offers: {(kind, name): offer}.
        owners: the plugins in use.
        problems: the plugins that are not, with the reason.

    A test builds its own: ``Registry.of(plugin_module)``; ``Registry.of()`` is empty.
    """

    offers: Mapping[tuple[str, str], Offer] = field(factory=dict)
    owners: tuple[Owner, ...] = ()
    problems: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, *plugins: Any) -> Registry:
        """A registry of these plugin modules or objects only; raises the first problem.

        Raises:
            PluginError: a taken name, a misspelt hook, or something else than a mapping of factories.
        """
        loader = Loader()
        for plugin in plugins:
            loader.add(plugin, Owner(getattr(plugin, "__name__", type(plugin).__name__)))
        registry = cls._of(loader)
        if registry.problems:
            raise PluginError(str(registry.problems[0]))
        return registry

    @classmethod
    def installed(cls, only: Iterable[str] | None = None) -> Registry:
        """A registry of the installed plugins, or of the named entry points.

        Raises:
            PluginError: no plugin is installed at all, or one that is named is not there.
        """
        loader = Loader()
        for point in installed_plugins(only):
            loader.load(point)
        return cls._of(loader)

    @classmethod
    def _of(cls, loader: Loader) -> Registry:
        offers = loader.offers()
        return cls(offers, tuple(loader.owners.values()), tuple(loader.problems))

    def names(self, kind: str) -> list[str]:
        """The names of a kind (``policy``, ``classifier``, ``selector``, ...), sorted."""
        return sorted(name for offered, name in self.offers if offered == kind)

    def offer(self, kind: str, name: str) -> Offer:
        """The plugin that offers this name, and its factory.

        Raises:
            UnknownName: no plugin does; the message lists what is there, and the plugins that failed to load.
        """
        if (kind, name) in self.offers:
            return self.offers[kind, name]
        raise unknown_name(kind, name, self.names(kind), hint=self._failed())

    def make(self, kind: str, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """The object that the factory of this name makes, with options set.

        Raises:
            UnknownName: the name is not there.
            InputError: the name is no text, or an option is unknown or out of range.
            PluginError: the factory failed or returned something of another kind.
        """
        if not isinstance(name, str):
            raise InputError(f"a {kind} is named by a text (scalekv plugins lists them); got {shortened(name)}")
        made = self.offer(kind, name).make()
        return set_options(f"{kind} {name!r}", made, options) if options else made

    def policy(
        self,
        policy: str | Policy,
        *,
        budget: str | None = None,
        options: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Policy:
        """A policy by name, with parts exchanged and options set.

        Args:
            policy: name, or a Policy value.
            budget: the budget if the user names none; None leaves it.
            options: {option: value}; ``selector.window`` where several parts have it.
            **changes: parts (classifier, allocator, selector, merger, codec), each a name or a value, None leaves it; and
                options by their names.

        Raises:
            InputError: a part is of another kind.
            UnknownName, InputError, PluginError: as ``make``.
        """
        if not isinstance(policy, (str, Policy)):
            raise InputError(f"wanted the name of a policy or a Policy; got {policy!r}")
        chosen: Policy = policy if isinstance(policy, Policy) else self.make("policy", policy)
        given = {part: value for part, value in changes.items() if part in PARTS and value is not None}
        changed = {part: self._part(chosen, part, value) for part, value in given.items()}
        names = {part: value if isinstance(value, str) else type(value).__name__ for part, value in given.items()}
        chosen = chosen.with_parts(names, changed).with_options(
            {**(options or {}), **{name: value for name, value in changes.items() if name not in PARTS}}
        )
        return chosen if budget is None else evolve(chosen, budget=budget)

    def _part(self, policy: Policy, part: str, value: Any) -> Any:
        if isinstance(value, str):
            return self.make(part, value)
        if not isinstance(value, TYPES[part]):
            raise InputError(
                f"{part} of policy {policy.name!r} must be a name or a {TYPES[part].__name__}; got {value!r}"
            )
        return value

    def adapter_for(self, model: nn.Module) -> tuple[str, ModelAdapter]:
        """(name, adapter) of the adapter that knows this model.

        Raises:
            SessionError: none does, or the model is inside of a wrapper.
            PluginError: several do, or one cannot tell.
        """
        refuse_wrapper(model)
        adapters = {name: OwnedAdapter(self.offer("adapter", name)) for name in self.names("adapter")}
        knowing = {name: adapter for name, adapter in adapters.items() if adapter.matches(model)}
        if len(knowing) > 1:
            raise PluginError(
                f"{len(knowing)} adapters know this {type(model).__name__}: {' and '.join(map(str, knowing.values()))}; "
                "load only one of their plugins, with SCALEKV_PLUGINS"
            )
        if not knowing:
            known = ", ".join(adapters) or "none"
            raise SessionError(
                f"no adapter knows a {type(model).__name__}; installed adapters: {known}; "
                f"docs/adapters.md tells how to write one{self._failed()}"
            )
        return next(iter(knowing.items()))

    def _failed(self) -> str:
        """The plugins that are left out, one per line: a missing name may be theirs."""
        return "".join(f"\n{problem}" for problem in self.problems)


@functools.cache
def shared_registry() -> Registry:
    """The registry of the installed plugins, made at the first call.

    ``SCALEKV_PLUGINS=a,b`` loads only these entry points: the way to find out which plugin is at fault.
    """
    chosen = os.environ.get("SCALEKV_PLUGINS")
    return Registry.installed(None if chosen is None else [name.strip() for name in chosen.split(",") if name.strip()])


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    allow_nonfinite: bool = False,
    registry: Registry | None = None,
) -> ImageModel:
    """An image model by name, ready to generate.

    Args:
        name: as ``scalekv models`` lists it.
        weights: file or folder, for models whose weights do not ship.
        device, dtype: where and how it runs, each also by name.
        allow_nonfinite: accept weights and text features that hold NaN or infinity.
        registry: where the name is looked up; the installed plugins by default.

    Raises:
        UnknownName: no model or dtype has that name.
        InputError: there is no such device, or weights is no path.
        CheckpointError: its weights are missing, truncated, of another model, or not finite.
    """
    card: ModelCard = (registry or shared_registry()).make("model", name)
    check_flag(allow_nonfinite, "load_model", "allow_nonfinite")
    file = _path(weights)
    options = {"allow_nonfinite": True} if allow_nonfinite else {}  # cards that ship their weights need not know it
    if options and not _takes(card.load, *options):
        raise InputError(
            f"model {name!r} ({type(card).__name__}) cannot be loaded with allow_nonfinite, which its load does not take; "
            "leave it out"
        )
    place, number = str(read_device(device)), read_dtype(dtype)
    try:
        return card.load(weights=file, device=place, dtype=number, **options)
    except OSError as error:  # a folder that may not be entered, a disk that fails
        if isinstance(error, ScaleKVError):
            raise
        raise CheckpointError(
            f"model {name!r}: {error.filename or weights} cannot be read ({error.strerror})"
        ) from error


def _path(weights: Any) -> Path | None:
    """The path of weights; InputError if it is none, or an empty text, which would be the current directory."""
    if weights is None or isinstance(weights, Path):
        return weights
    if not isinstance(weights, (str, os.PathLike)) or not os.fspath(weights):
        raise InputError(f"load_model needs weights to be a path of a file or folder; got {shortened(weights)}")
    return Path(weights)


def _takes(function: Callable[..., object], name: str) -> bool:
    """Whether a function has a parameter of this name, or takes any keyword."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
