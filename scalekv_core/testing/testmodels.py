"""Small models that adapters are checked on: how one is made, how it generates, and what it looks like inside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, cast

import torch
from attrs import frozen
from torch import Tensor, nn

from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel
from scalekv_core.plugins.registry import Registry
from scalekv_core.testing.common import same_bits


def _itself(loaded: Any) -> nn.Module:
    return cast(nn.Module, loaded if isinstance(loaded, nn.Module) else loaded.module)


@frozen(kw_only=True)
class TestModel:
    """A model of the family that an adapter is for.

    Attributes:
        load: makes a new one; the same one every time.
        draw: (loaded, rows, seed) -> all tensors that one batch gives.
        force: (loaded, rows, seed, scales) -> the same of one image or batch in which the tokens of the first ``scales``
            scales are given instead of chosen, as teacher forcing does; None if the model cannot.
        module: what the adapter attaches to; of an image model its ``module``.
    """

    __test__: ClassVar[bool] = False  # pytest would take it for a class of tests

    load: Callable[[], Any]
    draw: Callable[[Any, int, int], Sequence[Tensor]]
    force: Callable[[Any, int, int, int], Sequence[Tensor]] | None = None
    module: Callable[[Any], nn.Module] = _itself

    @classmethod
    def of_card(cls, card: ModelCard) -> TestModel:
        """An image model that comes with its weights, generating its own example."""

        def generate(model: ImageModel, rows: int, seed: int, forced: Sequence[Tensor] | None = None) -> list[Tensor]:
            prompts, seeds = [card.example] * rows, range(seed, seed + rows)
            made = model.generate(prompts, seeds=seeds, forced=forced, keep_logits=True)
            return [made.images, *made.tokens, *made.choices, *(made.logits or ())]

        @cache
        def tokens(rows: int, seed: int) -> list[Tensor]:
            """Other tokens of the right form: those of an image, shifted by one."""
            model = card.load()
            return [x.roll(1, dims=1) for x in generate(model, rows, seed)[1 : 1 + len(model.schedule)]]

        def force(model: ImageModel, rows: int, seed: int, scales: int) -> list[Tensor]:
            return generate(model, rows, seed, tokens(rows, seed)[:scales])

        return cls(load=card.load, draw=generate, force=force)

    def generated(self, loaded: Any, rows: int, seed: int) -> list[Tensor]:
        """What comes out, without gradients."""
        with torch.inference_mode():
            return list(self.draw(loaded, rows, seed))

    def forced(self, loaded: Any, rows: int, seed: int, scales: int) -> list[Tensor]:
        """What comes out with the tokens of the first ``scales`` scales given, without gradients."""
        assert self.force is not None
        with torch.inference_mode():
            return list(self.force(loaded, rows, seed, scales))


def find_test_model(registry: Registry, adapter: ModelAdapter) -> TestModel | None:
    """The first installed image model that the adapter knows and that comes with its weights; None if there is none."""
    for name in registry.names("model"):
        try:
            card: ModelCard = registry.make("model", name)
            if not card.needs_weights and adapter.matches(_itself(card.load())):
                return TestModel.of_card(card)
        except Exception:  # a model that does not load is not this adapter's fault, and the model's own checks tell
            continue
    return None


def inside(module: nn.Module) -> dict[str, Any]:
    """{path: value} of everything that attaching could change in an instance; containers are opened, tensors copied."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            where = f"{path or type(part).__name__}.{name}"
            if isinstance(value, (dict, list, set)):
                items = value.items() if isinstance(value, dict) else enumerate(value)
                found[where] = type(value)
                found |= {f"{where}[{key!r}]": _kept(item) for key, item in items}
            else:
                found[where] = _kept(value)
    return found


def _kept(value: Any) -> Any:
    return (value, value.detach().clone(), value.requires_grad) if isinstance(value, Tensor) else value


def shared(module: nn.Module) -> dict[str, Any]:
    """{name: value} of what a model shares with others: its classes, the modules that define them, torch's functions."""
    types = {base for part in module.modules() for base in type(part).__mro__}
    modules = {sys.modules[t.__module__] for t in types if t.__module__ in sys.modules and t is not object}
    found = {f"{t.__module__}.{t.__qualname__}.{name}": value for t in types for name, value in vars(t).items()}
    for one in {*modules, torch, torch.nn.functional}:
        found |= {f"{one.__name__}.{name}": value for name, value in vars(one).items() if not name.startswith("__")}
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Describes what was added, removed or replaced."""
    new = [f"{name} is new" for name in after.keys() - before.keys()]
    gone = [f"{name} is gone" for name in before.keys() - after.keys()]
    other = [f"{name} is another" for name in before.keys() & after.keys() if not _is(before[name], after[name])]
    return sorted(new + gone + other)


def _is(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and len(one) == 3 and isinstance(one[0], Tensor):
        same = isinstance(other, tuple) and one[0] is other[0] and one[2] == other[2]
        return same and same_bits(one[1], other[1])
    return one is other or (type(one) is type(other) and type(one) in (bool, int, float, str, bytes) and one == other)
