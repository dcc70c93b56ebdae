"""A policy: the value that a name stands for. Five parts, any of which can be exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, field, frozen
from attrs.validators import instance_of

from scalekv_core.contracts.defaults import Dense, Drop, OneRole
from scalekv_core.contracts.options import assign_options, check_numbers
from scalekv_core.contracts.strategies import BudgetAllocator, CacheCodec, LayerClassifier, TokenMerger, TokenSelector

PARTS = ("classifier", "allocator", "selector", "merger", "codec")


@frozen(kw_only=True)
class Policy:
    """How the budget is shared, which tokens are kept, what happens to evicted tokens, and how kept tokens are stored.

    Attributes:
        name: what it is called, with the parts that were exchanged.
        classifier, allocator, selector, merger, codec: the five parts.
        budget: what it is given if the user says nothing.
        paper: where it comes from.

    Raises:
        InputError: an option of a part is True or False where it is a number, or a fraction where it is a whole number.
    """

    name: str
    allocator: BudgetAllocator = field(validator=instance_of(BudgetAllocator))
    selector: TokenSelector = field(validator=instance_of(TokenSelector))
    classifier: LayerClassifier = field(factory=OneRole, validator=instance_of(LayerClassifier))
    merger: TokenMerger = field(factory=Drop, validator=instance_of(TokenMerger))
    codec: CacheCodec = field(factory=Dense, validator=instance_of(CacheCodec))
    budget: str = field(default="10%", validator=instance_of(str))
    paper: str = ""

    def __attrs_post_init__(self) -> None:
        for part, strategy in self.parts.items():
            check_numbers(f"{part} of policy {self.name!r}", strategy)

    @classmethod
    def named(cls, name: str, **changes: Any) -> Policy:
        """The installed policy of this name, changed.

        Args:
            name: as ``scalekv policies`` lists it.
            **changes: parts by name or value (``selector="h2o"``), ``budget``, options by name (``window=9``), and
                ``options={"selector.window": 9}`` for an option that several parts have.

        Raises:
            UnknownName, InputError, PluginError: as :meth:`scalekv_core.plugins.registry.Registry.policy`.

        >>> Policy.named("uniform", selector="snapkv", window=16, budget="20%").selector
        SnapSelector(window=16, kernel=5, pooling='max', protect=0.5)
        """
        from scalekv_core import shared_registry  # here: names belong to plugins, which stand on the contracts

        return shared_registry().policy(name, **changes)

    @property
    def needs_profile(self) -> bool:
        """Whether it has to be told what calibration measured."""
        return self.classifier.needs_profile

    @property
    def parts(self) -> dict[str, Any]:
        """{part: strategy} of all five."""
        return {part: getattr(self, part) for part in PARTS}

    def with_parts(self, names: Mapping[str, str], parts: Mapping[str, Any]) -> Policy:
        """The same policy with these parts exchanged; its name says which."""
        changes = "".join(f" {part}={name}" for part, name in names.items())
        return evolve(self, name=self.name + changes, **parts) if parts else self

    def with_options(self, options: Mapping[str, Any]) -> Policy:
        """The same policy with options set: ``window`` in whichever part has it, or ``selector.window``.

        Raises:
            InputError: no part has that option, several have it, or the value is out of range.
        """
        return evolve(self, **assign_options(self.name, self.parts, options)) if options else self
