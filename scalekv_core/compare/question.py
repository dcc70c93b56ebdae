"""What a study asks: models, policies, budgets, codecs, options, prompts and seeds. Everything else is frozen, and recorded."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import asdict, evolve, field, frozen

from scalekv_core.contracts.policy import PARTS, Policy
from scalekv_core.errors import InputError, shortened
from scalekv_core.models.requests import check_seeds
from scalekv_core.models.sampling import Sampling
from scalekv_core.plugins.registry import Registry
from scalekv_core.shapes.values import check_whole


@frozen(kw_only=True)
class Setting:
    """One way to hold the cache of one model: a point of the table.

    Attributes:
        model: the model's name.
        policy: a name, or a name with parts that replace its own: ``"scalekv selector=h2o"``.
        budget: as text, ``"10%"``; empty for a policy that spends none.
        codec: name of the codec; empty for the policy's own.
        options: {option: value} as texts.
    """

    model: str
    policy: str
    budget: str = ""
    codec: str = ""
    options: Mapping[str, str] = field(factory=dict, converter=dict, hash=False)

    @property
    def key(self) -> str:
        """Names the setting in the store; equal settings have equal keys."""
        return json.dumps([self.model, self.policy, self.budget, self.codec, sorted(self.options.items())])

    @property
    def label(self) -> str:
        """The setting without its model, for tables and plots.

        >>> Setting(model="var-tiny", policy="fold", budget="10%", codec="int4", options={"window": "9"}).label
        'fold 10% int4 window=9'
        """
        words = [self.policy, self.budget, self.codec, *(f"{name}={value}" for name, value in self.options.items())]
        return " ".join(word for word in words if word)

    def made(self, registry: Registry) -> Policy:
        """The policy value.

        Raises:
            UnknownName, InputError: a policy, part or option that is not there, or a value out of range.
        """
        name, parts = read_policy(self.policy)
        if self.codec:
            parts["codec"] = self.codec
        return registry.policy(name, options=self.options, **parts)


def read_policy(text: str) -> tuple[str, dict[str, str]]:
    """(name, {part: name}) of a policy with parts that replace its own.

    >>> read_policy("scalekv selector=h2o codec=int8")
    ('scalekv', {'selector': 'h2o', 'codec': 'int8'})
    """
    name, *words = text.split() or [""]
    parts = dict(word.split("=", 1) for word in words if "=" in word)
    if not name or len(parts) < len(words) or set(parts) - set(PARTS):
        raise InputError(
            f"policy {text!r} is not understood; write a name, or a name with parts, each once: 'scalekv codec=int8' "
            f"(parts are {', '.join(PARTS)})"
        )
    return name, parts


@frozen(kw_only=True)
class Question:
    """Everything that a study's results depend on. Studies are comparable if all but their settings are equal.

    Attributes:
        models: names.
        policies: names, with parts if wanted; see :class:`Setting`.
        budgets: as texts; a policy that spends no budget is measured once.
        codecs: names; empty leaves each policy its own.
        vary: {option: values}; every combination is measured, of the policies that have the options.
        prompts: {model: its prompts}.
        seeds: every prompt is generated with every seed.
        sampling: {field: value} that replaces the models' own, such as ``{"guidance": 3.0}``.
        aspect, size, dtype: of the images, and in which the models run; None is the model's own.
        metrics: names.
        batch: images that are generated at once.
    """

    models: tuple[str, ...]
    policies: tuple[str, ...]
    budgets: tuple[str, ...] = ("10%",)
    codecs: tuple[str, ...] = ()
    vary: Mapping[str, tuple[str, ...]] = field(factory=dict)
    prompts: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...] = (0,)
    sampling: Mapping[str, Any] = field(factory=dict)
    aspect: str | None = None
    size: str | None = None
    dtype: str | None = None
    metrics: tuple[str, ...] = ("psnr", "ssim", "agreement", "forced-kl")
    batch: int = 1

    def __attrs_post_init__(self) -> None:
        for what, values in (("model", self.models), ("policy", self.policies), ("metric", self.metrics)):
            _check_each_once(what, values)
        for what, values in (("budget", self.budgets), ("codec", self.codecs)):
            if wrong := [value for value in values if not isinstance(value, str)]:
                raise InputError(f"a study names each {what} by a text; got {shortened(wrong[0])}")
        for model in self.models:
            if not self.prompts.get(model):
                raise InputError(f"model {model!r} has no prompt in this study; give it at least one")
            _check_each_once(f"prompt for model {model!r}", self.prompts[model])
        check_seeds(self.seeds, len(self.seeds), who="a study")
        _check_each_once("seed", self.seeds)
        check_whole(self.batch, "a study", "batch", least=1)

    def settings(self, registry: Registry) -> list[Setting]:
        """Every setting, in the order in which it was asked for.

        Raises:
            UnknownName, InputError: one cannot be made; of varied options, no policy has one.
        """
        found: list[Setting] = []
        for model, policy in itertools.product(self.models, self.policies):
            found += self._of_policy(model, policy, registry)
        missing = set(self.vary) - {option for setting in found for option in setting.options}
        if missing:
            raise InputError(f"no policy of this study has an option {sorted(missing)[0]!r} that could be varied")
        return found

    def _of_policy(self, model: str, policy: str, registry: Registry) -> Iterator[Setting]:
        plain = Setting(model=model, policy=policy)
        made = plain.made(registry)
        own = {name: values for name, values in self.vary.items() if has_option(made, name)}
        budgets = self.budgets if made.allocator.spends_all else ("",)
        for budget, codec, *values in itertools.product(budgets, self.codecs or ("",), *own.values()):
            options = dict(zip(own, values, strict=True))
            setting = Setting(model=model, policy=policy, budget=budget, codec=codec, options=options)  # type: ignore[arg-type]
            setting.made(registry)
            yield setting

    def images(self, model: str) -> list[tuple[str, int]]:
        """(prompt, seed) of every image of a model: all prompts with the first seed, then all with the second."""
        return [(prompt, seed) for seed in self.seeds for prompt in self.prompts[model]]

    def batches(self, model: str) -> list[list[tuple[str, int]]]:
        """The images of a model in batches."""
        images = self.images(model)
        return [images[start : start + self.batch] for start in range(0, len(images), self.batch)]

    def sampling_of(self, own: Sampling) -> Sampling:
        """A model's sampling under this question.

        Raises:
            InputError: a field that a sampling does not have, or a value out of range.
        """
        known = asdict(own)
        if unknown := set(self.sampling) - set(known):
            raise InputError(f"sampling has no {sorted(unknown)[0]!r}; it has {', '.join(known)}")
        return evolve(own, **self.sampling)

    def as_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the question, equal on every machine."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def has_option(policy: Policy, option: str) -> bool:
    """Whether a part of the policy has an option of this name (``window`` or ``selector.window``)."""
    from scalekv_core.contracts.options import options_of

    part, dot, name = option.rpartition(".")
    parts = policy.parts.items()
    return any(name in options_of(strategy) for owner, strategy in parts if not dot or owner == part)


def _check_each_once(what: str, values: Sequence[Any]) -> None:
    if not values:
        raise InputError(f"a study needs at least one {what}; got none")
    twice = [value for value, times in Counter(values).items() if times > 1]
    if twice:
        raise InputError(f"{what} {shortened(twice[0])} is named twice in this study; name each once")
