"""What an image model by name promises, as far as it comes with its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scalekv_core.errors import InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.testing.cases import DrawCase
from scalekv_core.testing.common import all_same, check_randomness, check_value, only_if

Make = Callable[[], ModelCard]


def with_weights(check: Callable[..., None]) -> Any:
    """Marks a check that draws."""
    return only_if(lambda card: not card.needs_weights, "its weights do not ship")(check)


def drawn(card: ModelCard, model: ImageModel, seeds: list[int], **others: Any) -> Generation:
    """One image of the card's example for each seed."""
    return model.generate([card.example] * len(seeds), seeds=seeds, **others)


def tensors(generation: Generation) -> list[Tensor]:
    """All that is not optional."""
    return [generation.images, *generation.tokens, *generation.choices]


def seeds_of(case: DrawCase) -> list[int]:
    return [case.seed + row for row in range(case.rows)]


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class: listing models loads none."""
    check_value(make)


@with_weights
def check_loads_what_it_says(make: Make) -> None:
    """The model has the schedule and the sampling of its card."""
    card = make()
    model = card.load()
    assert isinstance(model, ImageModel), f"it loaded a {type(model).__name__}; wanted an ImageModel"
    assert card.geometry.schedule == model.schedule, (
        f"its card says maps {card.geometry.schedule}; it has {model.schedule}"
    )
    assert card.sampling == model.sampling, f"its card says {card.sampling}; it has {model.sampling}"
    assert not any(part.training for part in model.module.modules()), "it is in training mode"


@with_weights
def check_draws_pictures(make: Make, case: DrawCase) -> None:
    """Images (B, 3, H, W) in [0, 1], and the tokens and choices (B, n, ...) of every scale; logits only if asked for."""
    card = make()
    model = card.load()
    made = drawn(card, model, seeds_of(case))
    assert made.images.shape[:2] == (case.rows, 3), (
        f"images are {tuple(made.images.shape)}; wanted {(case.rows, 3)}, ..."
    )
    low, high = made.images.min().item(), made.images.max().item()
    assert 0 <= low <= high <= 1, f"pixels go from {low:g} to {high:g}"
    wanted = [(case.rows, n) for n in model.schedule.tokens]
    for name, got in (("tokens", made.tokens), ("choices", made.choices)):
        assert wanted == [tuple(x.shape[:2]) for x in got], (
            f"{name} are {[tuple(x.shape) for x in got]}; wanted {wanted}"
        )
    assert made.logits is None, "logits come without being asked for"


@with_weights
def check_repeats_itself(make: Make, case: DrawCase) -> None:
    """The same prompts and seeds give the same images, also after others."""
    card = make()
    model = card.load()
    first = tensors(drawn(card, model, seeds_of(case)))
    drawn(card, model, [case.seed + 7] * (case.rows + 1))
    assert all_same(first, tensors(drawn(card, model, seeds_of(case)))), "after another image the same one is another"


@with_weights
def check_images_are_apart(make: Make, case: DrawCase) -> None:
    """An image depends on its own prompt and seed only, not on its batch."""
    card = make()
    model = card.load()
    seeds = [case.seed, case.seed + 1, case.seed + 2]
    together, alone = drawn(card, model, seeds), drawn(card, model, seeds[1:2])
    same = all_same([x[1:2] for x in together.tokens], list(alone.tokens))
    assert same, "an image has other tokens when it is alone in the batch"


@with_weights
def check_forced_tokens_are_drawn(make: Make, case: DrawCase) -> None:
    """Given its own tokens it draws the same images and would choose the same: teacher forcing changes nothing else."""
    card = make()
    model = card.load()
    free = drawn(card, model, seeds_of(case))
    forced = drawn(card, model, seeds_of(case), forced=free.tokens)
    assert all_same(tensors(free), tensors(forced)), "forced to its own tokens it draws or chooses something else"
    other = [x.roll(1, dims=1) for x in free.tokens]  # each token's neighbour
    assert all_same(list(drawn(card, model, seeds_of(case), forced=other).tokens), other), "it draws other tokens"


@with_weights
def check_ignores_global_randomness(make: Make, case: DrawCase) -> None:
    """Global generators are neither read nor moved: seeds are given."""
    card = make()
    model = card.load()
    check_randomness(lambda: tensors(drawn(card, model, seeds_of(case))))


@with_weights
def check_refuses_what_it_cannot_draw(make: Make) -> None:
    """A wrong number of seeds is an InputError."""
    card = make()
    model = card.load()
    try:
        with torch.inference_mode():
            model.generate([card.example], seeds=[1, 2])
    except InputError:
        return
    raise AssertionError("two seeds for one prompt are not refused")
