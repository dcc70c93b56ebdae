"""Refuses a study that cannot be run before a model is loaded: wrong names, metrics without figures, prompts that are not taken."""

from __future__ import annotations

from scalekv_core.compare.measuring import pair_metrics
from scalekv_core.compare.question import Question
from scalekv_core.errors import InputError, shortened
from scalekv_core.models.card import ModelCard
from scalekv_core.models.metric import SetMetric
from scalekv_core.plugins.registry import Registry


def check_question(question: Question, registry: Registry) -> None:
    """Refuses a wrong name, option, metric or prompt before a model is loaded.

    Raises:
        UnknownName, InputError, MissingExtra: as :func:`plan_study`.
    """
    question.settings(registry)
    pair_metrics(question, registry)
    _check_models(question, registry)
    _check_sets(question, registry)
    for name in question.models:
        _check_prompts(name, question, registry)


def unmeasured(question: Question, registry: Registry) -> list[tuple[str, str, str]]:
    """(metric, model, models that it measures) wherever a metric has no figures of a model."""
    made = [(name, registry.make("metric", name).models) for name in question.metrics]
    return [
        (name, model, ", ".join(own)) for name, own in made for model in question.models if own and model not in own
    ]


def _check_models(question: Question, registry: Registry) -> None:
    """Refuses a metric that measures none of the models, since its column would be empty."""
    missing = unmeasured(question, registry)
    for name, model, own in missing:
        if sum(metric == name for metric, _, _ in missing) == len(question.models):
            raise InputError(f"metric {name!r} has no figures of model {model!r}: it measures {own} only; leave it out")


def _check_sets(question: Question, registry: Registry) -> None:
    """Refuses a metric of sets of images where a model generates clips, of which a study keeps contact sheets only."""
    clips = [model for model in question.models if registry.make("model", model).fps is not None]
    sets = [name for name in question.metrics if isinstance(registry.make("metric", name), SetMetric)]
    if clips and sets:
        raise InputError(
            f"metric {sets[0]!r} compares sets of images, and model {clips[0]!r} generates clips; leave one of them out"
        )


def _check_prompts(name: str, question: Question, registry: Registry) -> None:
    card: ModelCard = registry.make("model", name)
    if card.needs_weights or type(card).accepts is ModelCard.accepts:
        return  # only the loaded model knows its language
    wrong = next((prompt for prompt in question.prompts[name] if not card.accepts(prompt)), None)
    if wrong is not None:
        raise InputError(
            f"model {name!r} does not accept the prompt {shortened(wrong)}; it takes prompts like {card.example!r}"
        )
