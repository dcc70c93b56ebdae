"""Checks of image models by name, as far as their weights are installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.errors import InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.testing.cases import GenerationCase
from scalekv_core.testing.common import all_same, check_randomness, check_value, made_on_few, only_if
from scalekv_core.testing.manners import quietly
from scalekv_core.testing.testmodels import differences, inside
from scalekv_core.testing.watching import stored_bytes

Make = Callable[[], ModelCard]
OTHER_PROMPTS = ("7", "1", "0", "42", "a red circle", "two blue squares", "a green triangle above a red circle")
"""What is tried for prompts beside the card's example: classes, and texts."""


def with_weights(check: Callable[..., None]) -> Any:
    """Marks a check that generates."""
    return only_if(lambda card: not card.needs_weights, "its weights do not ship")(check)


def generated(card: ModelCard, model: ImageModel, seeds: list[int], **others: Any) -> Generation:
    """One image of the card's example for each seed."""
    return model.generate([card.example] * len(seeds), seeds=seeds, **others)


def tensors(generation: Generation) -> list[Tensor]:
    """All that is not optional."""
    return [generation.images, *generation.tokens, *generation.choices]


def seeds_of(case: GenerationCase) -> list[int]:
    return [case.seed + row for row in range(case.rows)]


def prompts_of(card: ModelCard, model: ImageModel) -> list[str]:
    """The card's example and up to three other prompts that the model takes."""
    found = [card.example]
    for prompt in OTHER_PROMPTS:
        try:
            model.generate([prompt], seeds=[0])
        except Exception:  # not in this model's language
            continue
        found += [prompt] if prompt not in found else []
        if len(found) == 4:
            break
    return found


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class: listing models loads none."""
    check_value(make)


@with_weights
def check_loads_what_it_says(make: Make) -> None:
    """The model has the schedule and the sampling of its card, and is in no training mode."""
    card = make()
    model = card.load()
    assert isinstance(model, ImageModel), f"it loaded a {type(model).__name__}; wanted an ImageModel"
    assert card.geometry.schedule == model.schedule, (
        f"its card says maps {card.geometry.schedule}; it has {model.schedule}"
    )
    assert card.sampling == model.sampling, f"its card says {card.sampling}; it has {model.sampling}"
    assert not any(part.training for part in model.module.modules()), "it is in training mode"


@with_weights
def check_loads_anew(make: Make) -> None:
    """Two models that were loaded are alike and share nothing: what is done to one is not done to the other."""
    card = make()
    one, other = card.load(), card.load()
    assert one.module is not other.module, "it gives the same model twice"
    mine, theirs = (dict(model.module.state_dict()) for model in (one, other))
    assert mine.keys() == theirs.keys(), "two models that were loaded have other weights"
    for name, weight in mine.items():
        assert all_same([weight], [theirs[name]]), f"two models that were loaded differ in {name}"
        shared = weight.numel() and weight.untyped_storage().data_ptr() == theirs[name].untyped_storage().data_ptr()
        assert not shared, f"two models that were loaded share the memory of {name}"


@with_weights
def check_loads_in_other_dtypes(make: Make) -> None:
    """Loaded in another dtype its weights have that dtype, as far as it can be had in it."""
    card = make()
    for dtype in (torch.bfloat16, torch.float32):
        try:
            model = card.load(dtype=dtype)
        except InputError:
            continue
        wrong = [n for n, x in model.module.named_parameters() if x.is_floating_point() and x.dtype != dtype]
        assert not wrong, f"loaded in {dtype} its {wrong[0]} is in another dtype"


@with_weights
def check_generates_images(make: Make, case: GenerationCase) -> None:
    """Images (B, 3, H, W), or clips (B, 3, F, H, W) if its card says so, in [0, 1], and the tokens and choices (B, n, ...) of
    every scale, of text only what it predicts; logits only if asked for."""
    card = make()
    model = card.load()
    made = generated(card, model, seeds_of(case))
    assert made.images.shape[:2] == (case.rows, 3), (
        f"images are {tuple(made.images.shape)}; wanted {(case.rows, 3)}, ..."
    )
    assert made.is_clip == (card.fps is not None), (
        f"it made {tuple(made.images.shape)}; its card says {card.fps} frames a second, None being images"
    )
    low, high = made.images.min().item(), made.images.max().item()
    assert 0 <= low <= high <= 1, f"pixels go from {low:g} to {high:g}"
    wanted = [(case.rows, n) for n in model.schedule.without_prefix.tokens]
    for name, got in (("tokens", made.tokens), ("choices", made.choices)):
        assert wanted == [tuple(x.shape[:2]) for x in got][-len(wanted) :], (
            f"{name} are {[tuple(x.shape) for x in got]}; wanted {wanted}"
        )
    assert made.logits is None, "logits come without being asked for"
    logits = generated(card, model, seeds_of(case), keep_logits=True).logits
    assert logits is not None, "logits do not come although they are asked for"
    assert wanted == [tuple(x.shape[:2]) for x in logits][-len(wanted) :], (
        f"logits are {[tuple(x.shape) for x in logits]}; wanted {wanted}"
    )


@with_weights
def check_repeats_itself(make: Make, case: GenerationCase) -> None:
    """The same prompts and seeds give the same images, also after others and from a model that was loaded anew."""
    card = make()
    model = card.load()
    first = tensors(generated(card, model, seeds_of(case)))
    generated(card, model, [case.seed + 7] * (case.rows + 1), sampling=evolve(model.sampling, greedy=False))
    assert all_same(first, tensors(generated(card, model, seeds_of(case)))), (
        "after another image the same one is another"
    )
    anew = card.load()
    assert all_same(first, tensors(generated(card, anew, seeds_of(case)))), (
        "a model that was loaded anew gives other images"
    )


@with_weights
def check_images_are_apart(make: Make, case: GenerationCase) -> None:
    """An image depends on its own prompt and seed only, not on its batch: other prompts, seeds and samplings beside it."""
    card = make()
    model = card.load()
    prompts = prompts_of(card, model)
    seeds = [case.seed + 3 * i for i in range(len(prompts))]
    for sampling in (model.sampling, evolve(model.sampling, greedy=False), evolve(model.sampling, greedy=True)):
        together = model.generate(prompts, seeds=seeds, sampling=sampling)
        for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            alone = model.generate([prompt], seeds=[seed], sampling=sampling)
            same = all_same([x[i : i + 1] for x in together.tokens], list(alone.tokens))
            assert same, f"prompt {prompt!r} has other tokens alone than as number {i} of a batch of {len(prompts)}"


@with_weights
def check_sampling_is_followed(make: Make, case: GenerationCase) -> None:
    """Its own sampling is the default, greedy sampling does not depend on seeds, and one candidate is greedy, too."""
    card = make()
    model = card.load()
    seeds, others = seeds_of(case), [seed + 11 for seed in seeds_of(case)]
    greedy = evolve(model.sampling, greedy=True)
    expected = tensors(generated(card, model, seeds))
    assert all_same(expected, tensors(generated(card, model, seeds, sampling=model.sampling))), (
        "without a sampling it does not use its own"
    )
    first = list(generated(card, model, seeds, sampling=greedy).tokens)
    assert all_same(first, list(generated(card, model, others, sampling=greedy).tokens)), (
        "with greedy sampling other seeds give other tokens"
    )
    single = evolve(model.sampling, greedy=False, top_k=1, top_p=0.0)
    assert all_same(first, list(generated(card, model, seeds, sampling=single).tokens)), (
        "with one candidate (top_k 1) it does not take the likeliest"
    )


@with_weights
def check_forced_tokens_are_taken(make: Make, case: GenerationCase) -> None:
    """Given its own tokens, of the first scales or of all, it gives the same images and would choose the same."""
    card = make()
    model = card.load()
    free = generated(card, model, seeds_of(case))
    other = [x.roll(1, dims=1) for x in free.tokens]  # each token's neighbour
    given = [x.clone() for x in other]
    for scales in sorted({1, 1 + case.stop % len(other), len(other)}):
        forced = generated(card, model, seeds_of(case), forced=free.tokens[:scales])
        which = f"forced to its own tokens at {scales} of {len(other)} scales"
        assert all_same(tensors(free), tensors(forced)), f"{which} it gives or chooses something else"
        taken = generated(card, model, seeds_of(case), forced=other[:scales]).tokens
        assert all_same(list(taken[:scales]), other[:scales]), "it takes other tokens"
        assert all_same(given, other), "it writes to the tokens that it is forced to"


@with_weights
@made_on_few(2)
def check_keeps_nothing(make: Make, case: GenerationCase) -> None:
    """After an image the model is what it was, and holds no more memory after three images than after two."""
    card = make()
    model = card.load()
    before = inside(model.module)
    taken = []
    for seed in range(3):
        generated(card, model, [case.seed + seed])
        taken.append(stored_bytes(model.module))
    assert taken[2] <= taken[1], f"every image leaves {taken[2] - taken[1]} more bytes in the model"
    changed = [
        name for name in differences(before, inside(model.module)) if "_parameters" in name or "training" in name
    ]
    assert not changed, f"after an image {changed[0]}"


@with_weights
def check_ignores_global_randomness(make: Make, case: GenerationCase) -> None:
    """Global generators are neither read nor moved: seeds are given."""
    card = make()
    model = card.load()
    sampling = evolve(model.sampling, greedy=False)
    check_randomness(lambda: tensors(generated(card, model, seeds_of(case))))
    check_randomness(lambda: tensors(generated(card, model, seeds_of(case), sampling=sampling)))


@with_weights
def check_is_quiet(make: Make) -> None:
    """Loading and generating print nothing, warn of nothing, and leave the settings of torch and the process alone."""
    quietly(lambda: tensors(generated(make(), make().load(), [0])))


@with_weights
def check_refuses_what_it_cannot_generate(make: Make) -> None:
    """A wrong number of seeds is an InputError."""
    card = make()
    model = card.load()
    for seeds in ([1, 2], []):
        try:
            model.generate([card.example], seeds=seeds)
        except InputError:
            continue
        raise AssertionError(f"{len(seeds)} seeds for one prompt are not refused")
