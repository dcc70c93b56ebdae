"""Compares policies on a small model that has a judge: each row of the table is generated once.

The module `compare` of a model names the prompts and the judge; the rest is here. Every policy generates the same images,
batch by batch. Batches are alike, each of all kinds of prompt at seeds of its own, so that they tell how far figures scatter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, cast

import torch
from attrs import frozen
from rich.progress import track
from torch import Tensor

from scalekv_core import Generation, ImageModel, Policy, compress, shared_registry
from scalekv_core.compare.metrics import compare, psnr
from scalekv_core.errors import InputError
from scalekv_core.session.session import Session

UNMODIFIED = "unmodified"

Judge = Callable[[Tensor], dict[str, float]]
"""From all pictures (N, 3, H, W), in the order of the batches, to {what was looked at: share that is right}."""


@frozen
class Batch:
    """Prompts and seeds of the pictures that are generated at once."""

    prompts: list[str]
    seeds: list[int]

    @classmethod
    def cut(cls, asked: Sequence[tuple[str, int]], size: int) -> list[Batch]:
        """Batches of (prompt, seed), of this size and a last one of what is left over.

        >>> [len(batch.seeds) for batch in Batch.cut([("3", 0), ("4", 0), ("3", 1)], 2)]
        [2, 1]
        """
        parts = (asked[start : start + size] for start in range(0, len(asked), size))
        return [cls([prompt for prompt, _ in part], [seed for _, seed in part]) for part in parts]


@frozen(kw_only=True)
class Figures:
    """How near pictures are to the unmodified model's.

    Attributes:
        images: how many.
        psnr: dB of all together.
        agreement: share of tokens (or bits) that are the same when both generate freely.
        kl: nats a token (or bit), with the unmodified model's tokens forced.
    """

    images: int
    psnr: float
    agreement: float
    kl: float


@frozen(kw_only=True)
class Row:
    """One policy at one budget; of the unmodified model there is nothing but what the judge says.

    Attributes:
        model, aspect: the model, and its aspect ratio.
        policy, budget: as given; the policy with the parts that were exchanged.
        options: {option: value} that were set.
        images: how many were generated.
        judged: {what was looked at: share that is right}.
        psnr, agreement, kl: as in `Figures`, of all pictures.
        batches: the same of every batch.
        resident_bytes, unmodified_bytes: of a batch.
    """

    model: str
    aspect: str
    policy: str
    budget: str
    options: Mapping[str, str]
    images: int
    judged: dict[str, float]
    psnr: float | None = None
    agreement: float | None = None
    kl: float | None = None
    batches: Sequence[Figures] = ()
    resident_bytes: int | None = None
    unmodified_bytes: int | None = None


@frozen(eq=False, kw_only=True)
class Comparison:
    """A model, its prompts, its judge, and its unmodified images."""

    model: ImageModel
    batches: Sequence[Batch]
    judge: Judge
    full: Sequence[Generation]

    @classmethod
    def of(cls, model: ImageModel, batches: Sequence[Batch], judge: Judge) -> Comparison:
        """Generates with the unmodified model."""
        full = [
            model.generate(batch.prompts, seeds=batch.seeds, keep_logits=True)
            for batch in track(batches, UNMODIFIED, transient=True)
        ]
        return cls(model=model, batches=batches, judge=judge, full=full)

    def unmodified(self) -> Row:
        """The row of the unmodified model."""
        return self._row([one.images for one in self.full], policy=UNMODIFIED)

    def row(self, policy: str, budget: str, options: Mapping[str, str] | None = None) -> Row:
        """The row of one policy at one budget."""
        drawn, figures = [], []
        with compress(self.model, read_policy(policy, options), budget) as session:
            for batch, full in track(
                list(zip(self.batches, self.full, strict=True)), f"{policy} {budget}", transient=True
            ):
                free = self.model.generate(batch.prompts, seeds=batch.seeds)
                forced = self.model.generate(batch.prompts, seeds=batch.seeds, forced=full.tokens, keep_logits=True)
                figures.append(figures_of(free, full, forced))
                drawn.append(free.images)
        memory = session.report().as_dict()
        return self._row(
            drawn,
            policy=policy,
            budget=budget,
            options=options or {},
            psnr=float(psnr(torch.cat(drawn)[None], torch.cat([one.images for one in self.full])[None])),
            agreement=_mean(figures, "agreement"),
            kl=_mean(figures, "kl"),
            batches=figures,
            resident_bytes=memory["resident_bytes"],
            unmodified_bytes=memory["unmodified_bytes"],
        )

    def _row(
        self,
        drawn: Sequence[Tensor],
        *,
        policy: str,
        budget: str = "",
        options: Mapping[str, str] | None = None,
        **measured: Any,
    ) -> Row:
        images = torch.cat(list(drawn))
        return Row(
            model=self.model.name,
            aspect=self.model.aspect or "1:1",
            policy=policy,
            budget=budget,
            options=options or {},
            images=len(images),
            judged=self.judge(images),
            **measured,
        )


def figures_of(free: Generation, full: Generation, forced: Generation) -> Figures:
    """The figures of a batch, over all its scales."""
    found = compare(free, full, forced)
    return Figures(
        images=len(free.images),
        psnr=found.psnr,
        agreement=found.over_scales(found.agreement),
        kl=found.over_scales(cast(Sequence[float], found.kl)),
    )


def _mean(figures: Sequence[Figures], name: str) -> float:
    """Over all pictures."""
    total: float = sum(one.images * getattr(one, name) for one in figures)
    return total / sum(one.images for one in figures)


def read_policy(text: str, options: Mapping[str, str] | None = None) -> Policy:
    """The policy that a text like ``scalekv codec=int8`` stands for, with options set.

    Raises:
        InputError, UnknownName: it is of another form, or there is no such policy, part or option.

    >>> read_policy("uniform merger=fold codec=int8").name
    'uniform merger=fold codec=int8'
    """
    name, *words = text.split() or [""]
    parts = dict(word.split("=", 1) for word in words if "=" in word)
    if len(parts) < len(words):
        raise InputError(
            f"a policy is given as NAME, or as NAME with parts, each once: 'scalekv codec=int8'; got {text!r}"
        )
    return shared_registry().policy(name, options=options, **cast(dict[str, Any], parts))


def check(model: ImageModel, policies: Sequence[str], budgets: Sequence[str], options: Mapping[str, str]) -> None:
    """Raises the error of the first row that cannot be generated, before generation."""
    _, adapter = shared_registry().adapter_for(model.module)
    for policy, budget in product(policies, budgets):
        Session(
            model.module,
            adapter,
            read_policy(policy, options),
            budget=budget,
            profile=model.profile,
            name=model.name,
        )
