"""From the options of ``scalekv compare`` and its study file to a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scalekv_core.cli import defaults
from scalekv_core.cli.arguments import SamplingOptions, Shape
from scalekv_core.cli.compare import Asked
from scalekv_core.cli.installed import the_registry
from scalekv_core.cli.jobs import sampling_changes
from scalekv_core.compare.prompts import named_sets, prompts_named
from scalekv_core.compare.question import Question
from scalekv_core.compare.question_file import QuestionFile
from scalekv_core.errors import InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.requests import read_dtype

METRICS = ("psnr", "ssim", "agreement", "forced-kl")


def ask(asked: Asked, shape: Shape, options: SamplingOptions, *, dtype: str | None) -> Question:
    """The question of the command line and a file together; the command line wins.

    Raises:
        InputError, UnknownName: something is not there, or of another form.
    """
    told = QuestionFile() if asked.file is None else QuestionFile.load(asked.file)
    chosen = tuple(asked.models or told.models or (defaults.MODEL,))
    dtype = said(dtype, told.dtype)
    read_dtype("float32" if dtype is None else dtype)
    return Question(
        models=chosen,
        policies=tuple(asked.policies or told.policies or every_policy()),
        budgets=tuple(asked.budgets or told.budgets or ("10%",)),
        codecs=tuple(asked.codecs or told.codecs),
        vary=dict(told.vary) | dict(_read_vary(text) for text in asked.vary or ()),
        prompts=_prompts_of_each(chosen, asked.prompts or (), told.prompts),
        seeds=tuple(asked.seeds or told.seeds or (0,)),
        sampling={**told.sampling, **sampling_changes(options)},
        aspect=said(shape.aspect, told.aspect),
        size=said(shape.size, told.size),
        dtype=dtype,
        metrics=tuple(asked.metrics or told.metrics or METRICS),
        batch=said(asked.batch, told.batch, 1),
    )


def said(*values: Any) -> Any:
    """The first value that was said; None where none was. What is falsy was said, too.

    >>> said(None, 0, 1)
    0
    """
    return next((value for value in values if value is not None), None)


def every_policy() -> tuple[str, ...]:
    """The installed policies that need no table of their own, sorted."""
    registry = the_registry()
    return tuple(n for n in registry.names("policy") if not registry.make("policy", n).allocator.only_for)


def _read_vary(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, values = text.partition("=")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not (name.strip() and equals and found):
        raise InputError(f"--vary takes an option and its values, such as window=4,16,64; got {text!r}")
    return name.strip(), found


def _prompts_of_each(
    models: Sequence[str], given: Sequence[str], told: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """{model: its prompts}; InputError if prompts are named for a model that is not in the study, or none are named."""
    named = dict(text.split("=", 1) for text in given if "=" in text)
    for_all = [text for text in given if "=" not in text]
    for model, chosen in named.items():
        if model not in models:
            raise InputError(f"prompts are named for model {model!r}, which is not in this study: {', '.join(models)}")
        if not chosen:
            raise InputError(f"--prompts {model}= names no prompts; give a set or a file, or leave it out")
    return {name: _prompts_of(name, said(named.get(name), *for_all[-1:], told.get(name))) for name in models}


def _prompts_of(model: str, chosen: str | None) -> tuple[str, ...]:
    """The prompts of a set or file; by default the set that the model accepts."""
    if chosen is not None:
        return prompts_named(chosen)
    card: ModelCard = the_registry().make("model", model)
    for name in named_sets():
        prompts = prompts_named(name)
        if all(card.accepts(prompt) for prompt in prompts):
            return prompts
    if card.needs_weights:
        return prompts_named("written")
    raise InputError(f"no set of prompts is in the language of model {model!r}; give --prompts FILE")
