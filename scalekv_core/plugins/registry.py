"""The registry: every strategy, adapter and image model by name, with the plugin that offers it.

A plugin that does not load is named in ``problems`` and the others go on working; a name that two plugins offer stays
with the one that came first (scalekv's own rooms, then alphabetically), and the other plugin is a problem.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy
import torch
from attrs import evolve, field, frozen
from torch import nn

from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.contracts.options import set_options
from scalekv_core.contracts.policy import PARTS, Policy
from scalekv_core.contracts.strategies import BudgetAllocator, CacheCodec, LayerClassifier, TokenMerger, TokenSelector
from scalekv_core.errors import InputError, PluginError, ScaleKVError, SessionError, unknown_name
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.requests import read_device, read_dtype
from scalekv_core.plugins import hookspecs

GROUP = "scalekv"
OWN = "scalekv"

HOOKS = {
    "policy": "scalekv_policies",
    "classifier": "scalekv_layer_classifiers",
    "allocator": "scalekv_budget_allocators",
    "selector": "scalekv_token_selectors",
    "merger": "scalekv_token_mergers",
    "codec": "scalekv_cache_codecs",
    "adapter": "scalekv_model_adapters",
    "model": "scalekv_image_models",
}
"""{kind: hook that offers it}."""

_TYPES: dict[str, type] = {
    "policy": Policy,
    "classifier": LayerClassifier,
    "allocator": BudgetAllocator,
    "selector": TokenSelector,
    "merger": TokenMerger,
    "codec": CacheCodec,
    "adapter": ModelAdapter,
    "model": ModelCard,
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
    """A plugin that is not in use, and why."""

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
        """A registry of these plugin modules or objects only; the first problem is raised.

        Raises:
            PluginError: a taken name, a misspelt hook, or something else than a mapping of factories.
        """
        loader = _Loader()
        for plugin in plugins:
            loader.add(plugin, Owner(getattr(plugin, "__name__", type(plugin).__name__)))
        if loader.problems:
            raise PluginError(str(loader.problems[0]))
        return loader.registry()

    @classmethod
    def installed(cls, only: Iterable[str] | None = None) -> Registry:
        """A registry of the installed plugins, or of those entry points that are named.

        Raises:
            PluginError: no plugin is installed at all, or one that is named is not there.
        """
        loader = _Loader()
        for point in _points(only):
            loader.load(point)
        return loader.registry()

    def names(self, kind: str) -> list[str]:
        """The names of a kind (``policy``, ``classifier``, ``selector``, ...), sorted."""
        return sorted(name for offered, name in self.offers if offered == kind)

    def offer(self, kind: str, name: str) -> Offer:
        """Who offers this name, and its factory.

        Raises:
            UnknownName: nobody does; the message lists what is there, and the plugins that failed to load.
        """
        if (kind, name) in self.offers:
            return self.offers[kind, name]
        raise unknown_name(kind, name, self.names(kind), hint=self._failed())

    def make(self, kind: str, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """What the name stands for, with options set.

        Raises:
            UnknownName: the name is not there.
            InputError: an option is unknown or out of range.
            PluginError: the factory failed or returned something of another kind.
        """
        offer = self.offer(kind, name)
        made = _call(offer)
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
            budget: what it is given where nobody says more; None leaves it.
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
        if not isinstance(value, _TYPES[part]):
            raise InputError(
                f"{part} of policy {policy.name!r} must be a name or a {_TYPES[part].__name__}; got {value!r}"
            )
        return value

    def adapter_for(self, model: nn.Module) -> tuple[str, ModelAdapter]:
        """(name, adapter) of the one that knows this model.

        Raises:
            SessionError: none does.
            PluginError: one cannot tell.
        """
        for name in self.names("adapter"):
            adapter: ModelAdapter = self.make("adapter", name)
            if self._matches(name, adapter, model):
                return name, adapter
        known = ", ".join(self.names("adapter")) or "none"
        raise SessionError(
            f"no adapter knows a {type(model).__name__}; installed adapters: {known}; "
            f"docs/adapters.md tells how to write one{self._failed()}"
        )

    def _matches(self, name: str, adapter: ModelAdapter, model: nn.Module) -> bool:
        try:
            return adapter.matches(model)
        except Exception as error:  # whatever a foreign adapter raises at the sight of a foreign model
            owner = self.offer("adapter", name).owner
            raise PluginError(
                f"adapter {name!r} of {owner} cannot tell whether it knows a {type(model).__name__} ({_said(error)})"
            ) from error

    def _failed(self) -> str:
        """The plugins that are not in use, one per line: the name that is missing may be theirs."""
        return "".join(f"\n{problem}" for problem in self.problems)


class _Loader:
    """Collects offers plugin by plugin; a plugin with a problem leaves no trace but the problem."""

    def __init__(self) -> None:
        self.offers: dict[tuple[str, str], Offer] = {}
        self.owners: list[Owner] = []
        self.problems: list[Problem] = []

    def registry(self) -> Registry:
        return Registry(dict(self.offers), tuple(self.owners), tuple(self.problems))

    def load(self, point: EntryPoint) -> None:
        dist = point.dist
        owner = Owner(point.name, dist.metadata["Name"], dist.version) if dist else Owner(point.name)
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:  # whatever a foreign module raises on import
            self.problems.append(Problem(owner, f"it does not import ({_said(error)})"))
            return
        self.add(plugin, owner)

    def add(self, plugin: Any, owner: Owner) -> None:
        if any(owner.plugin == other.plugin for other in self.owners):
            taken = next(other for other in self.owners if other.plugin == owner.plugin)
            self.problems.append(
                Problem(owner, f"the entry point name {owner.plugin!r} is taken by {taken}; rename one")
            )
            return
        try:
            offers = _collect(plugin, owner)
            self._refuse_taken(offers)
        except PluginError as error:
            self.problems.append(Problem(owner, str(error)))
            return
        self.owners.append(owner)
        self.offers.update({(offer.kind, offer.name): offer for offer in offers})

    def _refuse_taken(self, offers: list[Offer]) -> None:
        for offer in offers:
            if taken := self.offers.get((offer.kind, offer.name)):
                raise PluginError(f"{offer.kind} {offer.name!r} is already offered by {taken.owner}; rename it")


def _collect(plugin: Any, owner: Owner) -> list[Offer]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, owner.plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{str(error).splitlines()[0]}; hooks are {', '.join(HOOKS.values())}") from error
    offers = []
    for kind, hook in HOOKS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            offers += _offers_of(kind, hook, implementation.function, owner)
    if not offers:
        raise PluginError(
            f"it offers nothing: mark its functions with @scalekv_core.hookimpl; hooks are {', '.join(HOOKS.values())}"
        )
    return offers


def _offers_of(kind: str, hook: str, implementation: Callable[[], Any], owner: Owner) -> list[Offer]:
    try:
        mapping = implementation()
    except Exception as error:  # whatever a foreign hook raises
        raise PluginError(f"its hook {hook} failed ({_said(error)})") from error
    if not isinstance(mapping, Mapping) or not all(isinstance(n, str) and callable(f) for n, f in mapping.items()):
        raise PluginError(f"its hook {hook} must return a mapping {{name: factory}}; got {mapping!r}")
    return [Offer(kind, name, factory, owner) for name, factory in mapping.items()]


def _call(offer: Offer) -> Any:
    try:
        made = offer.factory()
    except ScaleKVError:
        raise
    except Exception as error:  # whatever a foreign factory raises
        raise PluginError(f"{offer.kind} {offer.name!r} of {offer.owner} cannot be made ({_said(error)})") from error
    wanted = _TYPES.get(offer.kind)
    if wanted is not None and not isinstance(made, wanted):
        raise PluginError(
            f"{offer.kind} {offer.name!r} of {offer.owner} must be a {wanted.__name__}; got {type(made).__name__}"
        )
    return made


def _said(error: BaseException) -> str:
    """The error's class and the first line of its text."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _points(only: Iterable[str] | None) -> list[EntryPoint]:
    points = sorted(entry_points(group=GROUP), key=_own_first)
    if not points:
        raise PluginError(
            "no plugin is installed in the entry-point group 'scalekv'; install the package: pip install -e ."
        )
    if only is None:
        return points
    wanted = set(only)
    if missing := wanted - {point.name for point in points}:
        raise unknown_name("plugin", sorted(missing)[0], {point.name for point in points})
    return [point for point in points if point.name in wanted]


def _own_first(point: EntryPoint) -> tuple[bool, str, str]:
    name = point.dist.metadata["Name"] if point.dist else ""
    return name != OWN, name, point.name


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
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    registry: Registry | None = None,
) -> ImageModel:
    """An image model by name, ready to draw.

    Args:
        name: as ``scalekv models`` lists it.
        weights: file or folder, for models whose weights do not ship.
        device, dtype: where and how it runs, each also by name.
        registry: where the name is looked up; the installed plugins by default.

    Raises:
        UnknownName: no model or dtype has that name.
        InputError: there is no such device.
        CheckpointError: its weights are missing, truncated, or of another model.
    """
    card: ModelCard = (registry or shared_registry()).make("model", name)
    return card.load(weights=weights, device=str(read_device(device)), dtype=read_dtype(dtype))


def summary_of(thing: Any) -> str:
    """The first line of an object's docstring."""
    text = inspect.getdoc(thing) or ""
    return text.splitlines()[0] if text else ""
