"""Loads plugins from entry points. All register with one pluggy manager, which finds their hooks and orders them.

A plugin with a fault leaves no trace but the problem, and the others go on working.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from scalekv_core.errors import PluginError, unknown_name
from scalekv_core.plugins import hookspecs
from scalekv_core.plugins.offers import HOOKS, Offer, Owner, Problem, foreign

GROUP = "scalekv"
OWN = "scalekv"


_HINT = f"mark its functions with @scalekv_core.hookimpl; hooks are {', '.join(HOOKS.values())}"


class Loader:
    """Collects plugins, and then what they offer.

    Attributes:
        owners: {name: owner} of the plugins in use, in the order in which they came.
        problems: why the others are not.
    """

    def __init__(self) -> None:
        self.owners: dict[str, Owner] = {}
        self.problems: list[Problem] = []
        self._plugins: dict[str, Any] = {}
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    def load(self, point: EntryPoint) -> None:
        """Imports the plugin of an entry point and adds it."""
        owner = _owner_of(point)
        with self._or_left_out(owner):
            with foreign("it does not import"):
                plugin = point.load()
            self._add(plugin, owner)

    def add(self, plugin: Any, owner: Owner) -> None:
        """Adds a plugin that is already imported."""
        with self._or_left_out(owner):
            self._add(plugin, owner)

    def _add(self, plugin: Any, owner: Owner) -> None:
        if taken := self.owners.get(owner.plugin):
            raise PluginError(f"the entry point name {owner.plugin!r} is taken by {taken}; rename one")
        self.owners[owner.plugin], self._plugins[owner.plugin] = owner, plugin

    def offers(self) -> dict[tuple[str, str], Offer]:
        """{(kind, name): offer} of all plugins. If two offer one name, the plugin that is called first keeps it.

        scalekv's own plugins are called first, then the others in pluggy's order: by ``tryfirst`` and ``trylast``, then in the
        order in which they came. The other plugin is left out as a whole.
        """
        for owner in reversed(list(self.owners.values())):  # pluggy calls first what was registered last
            with self._or_left_out(owner):
                self._register(owner)
        offers: dict[tuple[str, str], Offer] = {}
        for kind, hook in HOOKS.items():
            for implementation in self._called(hook):
                owner = self.owners[implementation.plugin_name]
                with self._or_left_out(owner):
                    _join(offers, _offers_of(kind, hook, implementation, owner))
        offers = {key: offer for key, offer in offers.items() if offer.owner.plugin in self.owners}
        for owner in [
            owner for owner in self.owners.values() if owner not in {offer.owner for offer in offers.values()}
        ]:
            with self._or_left_out(owner):
                raise PluginError(f"it offers nothing: {_HINT}")
        return offers

    def _register(self, owner: Owner) -> None:
        plugin = self._plugins[owner.plugin]
        if same := self._manager.get_name(plugin):
            raise PluginError(f"it is the same module as {self.owners[same]}")
        try:
            with foreign("its hooks cannot be read"):
                self._manager.register(plugin, owner.plugin)
                self._manager.check_pending()
        except PluginError as error:
            fault = error.__cause__
            if isinstance(fault, pluggy.PluginValidationError):
                raise PluginError(f"{str(fault).splitlines()[0].partition(' in plugin ')[0]}; {_HINT}") from fault
            raise
        for caller in self._manager.get_hookcallers(plugin) or ():
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin and (implementation.hookwrapper or implementation.wrapper):
                    raise PluginError(
                        f"its hook {caller.name} is a wrapper; every hook returns a mapping of its own names"
                    )

    def _called(self, hook: str) -> Iterator[pluggy.HookImpl]:
        """The implementations of a hook in calling order, without plugins that are left out."""
        order = reversed(getattr(self._manager.hook, hook).get_hookimpls())
        for implementation in sorted(order, key=lambda one: self.owners[one.plugin_name].distribution != OWN):
            if implementation.plugin_name in self.owners:
                yield implementation

    @contextlib.contextmanager
    def _or_left_out(self, owner: Owner) -> Iterator[None]:
        """A block in which a PluginError leaves the plugin out."""
        try:
            yield
        except PluginError as error:
            self.problems.append(Problem(owner, str(error)))
            if self.owners.get(owner.plugin) is owner:
                del self.owners[owner.plugin]
                self._manager.unregister(name=owner.plugin)


def _offers_of(kind: str, hook: str, implementation: pluggy.HookImpl, owner: Owner) -> list[Offer]:
    with foreign(f"its hook {hook} failed"):
        mapping = implementation.function()
    if not isinstance(mapping, Mapping) or not all(isinstance(n, str) and callable(f) for n, f in mapping.items()):
        raise PluginError(f"its hook {hook} must return a mapping {{name: factory}}; got {mapping!r}")
    return [Offer(kind, name, factory, owner) for name, factory in mapping.items()]


def _join(offers: dict[tuple[str, str], Offer], new: list[Offer]) -> None:
    """Adds offers, all of them or none."""
    for offer in new:
        if taken := offers.get((offer.kind, offer.name)):
            raise PluginError(f"{offer.kind} {offer.name!r} is already offered by {taken.owner}; rename it")
    offers.update({(offer.kind, offer.name): offer for offer in new})


def installed_plugins(only: Iterable[str] | None) -> list[EntryPoint]:
    """The entry points of plugins, or the named ones; scalekv's own first, then by distribution.

    Raises:
        PluginError: no plugin is installed at all.
        UnknownName: one that is named is not installed.
    """
    points = sorted(entry_points(group=GROUP), key=lambda point: _order(_owner_of(point)))
    if not points:
        raise PluginError(
            f"no plugin is installed in the entry-point group {GROUP!r}; install the package: pip install -e ."
        )
    if only is None:
        return points
    wanted = set(only)
    if missing := wanted - {point.name for point in points}:
        raise unknown_name("plugin", sorted(missing)[0], [point.name for point in points])
    return [point for point in points if point.name in wanted]


def _owner_of(point: EntryPoint) -> Owner:
    return Owner(point.name, point.dist.metadata["Name"], point.dist.version) if point.dist else Owner(point.name)


def _order(owner: Owner) -> tuple[bool, str, str]:
    return owner.distribution != OWN, owner.distribution, owner.plugin
