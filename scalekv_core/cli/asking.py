"""From the options of ``scalekv compare`` and its study file to a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    read_dtype(dtype or told.dtype or "float32")
    return Question(
        models=chosen,
        policies=tuple(asked.policies or told.policies or every_policy()),
        budgets=tuple(asked.budgets or told.budgets or ("10%",)),
        codecs=tuple(asked.codecs or told.codecs),
        vary=dict(told.vary) | dict(_read_vary(text) for text in asked.vary or ()),
        prompts={name: _prompts_of(name, asked.prompts or (), told.prompts) for name in chosen},
        seeds=tuple(asked.seeds or told.seeds or (0,)),
        sampling={**told.sampling, **sampling_changes(options)},
        aspect=shape.aspect or told.aspect,
        size=shape.size or told.size,
        dtype=dtype or told.dtype,
        metrics=tuple(asked.metrics or told.metrics or METRICS),
        batch=asked.batch or told.batch or 1,
    )


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


def _prompts_of(model: str, given: Sequence[str], told: Mapping[str, str]) -> tuple[str, ...]:
    """A model's prompts: those named for it, those named for all, or the set that it accepts."""
    named = dict(text.split("=", 1) for text in given if "=" in text)
    for_all = [text for text in given if "=" not in text]
    chosen = named.get(model) or (for_all[-1] if for_all else None) or told.get(model)
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
