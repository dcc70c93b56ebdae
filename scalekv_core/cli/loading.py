"""From names and texts to things that can draw: models, devices, profiles, sampling, prompts and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import frozen

from scalekv_core.cli import defaults
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import CheckpointError, InputError, unknown_name
from scalekv_core.memory.estimate import Batch
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.sampling import Sampling
from scalekv_core.plugins import registry as registries
from scalekv_core.plugins.registry import Registry

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LARGEST = 2**63
"""Seeds are below this."""


@frozen(eq=False, kw_only=True)
class Job:
    """What to draw, image by image; a full and a compressed run get the same.

    Attributes:
        prompts, seeds: one per image.
        sampling: how tokens are drawn.
        batch: the same to a planner: which model draws how many, how large, with guidance or without.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sampling: Sampling
    batch: Batch

    @property
    def rows(self) -> int:
        """Sequences in the batch."""
        return self.batch.geometry.rows

    def parts(self, images: int) -> Iterator[Job]:
        """The same in parts of at most so many images."""
        for start in range(0, len(self.prompts), images):
            prompts, seeds = self.prompts[start : start + images], self.seeds[start : start + images]
            yield attrs.evolve(self, prompts=prompts, seeds=seeds, batch=attrs.evolve(self.batch, images=len(prompts)))

    @property
    def labels(self) -> list[str]:
        """One per image: its prompt, and its seed where a prompt is drawn more than once."""
        several = len(set(self.seeds)) > 1
        return [f"{p}, seed {s}" if several else p for p, s in zip(self.prompts, self.seeds, strict=True)]


def the_registry() -> Registry:
    """The registry that every command uses."""
    return registries.shared_registry()


def model_card(name: str) -> ModelCard:
    """What is known of a model before it is loaded; UnknownName if there is none."""
    card: ModelCard = the_registry().make("model", name)
    return card


def model_for(prompts: Sequence[str] | None) -> str:
    """The model that ships with weights and draws these prompts; without prompts the default one.

    Raises:
        InputError: there is none, or not one for all of them.
    """
    if not prompts:
        return defaults.MODEL
    cards = {name: model_card(name) for name in the_registry().names("model")}
    shipped = {name: card for name, card in cards.items() if not card.needs_weights}
    fitting = [name for name, card in shipped.items() if all(card.accepts(prompt) for prompt in prompts)]
    if not fitting:
        listed = ", ".join(f"{name} (like {card.example!r})" for name, card in shipped.items() if card.example)
        which = "draws" if len(prompts) == 1 else "draws all of"
        raise InputError(
            f"no model that ships with weights {which} {', '.join(map(repr, prompts))}; there is {listed}; "
            "for any other give --model"
        )
    return fitting[0]


def load_model(batch: Batch, *, weights: Path | None, device: str) -> ImageModel:
    """The model of a batch, ready to draw images of its aspect ratio and size.

    Raises:
        InputError, CheckpointError: no such device; the weights cannot be used.
    """
    check_weights(batch, weights)
    place, dtype = str(read_device(device)), batch.geometry.dtype
    if batch.random_weights:
        loaded = batch.card.random(device=place, dtype=dtype)
    else:
        loaded = registries.load_model(batch.model, weights=weights, device=place, dtype=dtype, registry=the_registry())
    loaded.set_shape(aspect=batch.aspect, size=batch.size)
    return loaded


def check_weights(batch: Batch, weights: Path | None) -> None:
    """Raises InputError or CheckpointError unless weights are given where they are needed, and nowhere else."""
    card = batch.card
    if batch.random_weights and weights is not None:
        raise InputError(f"--random-weights takes the place of --weights; leave one of them out (got {weights})")
    if card.needs_weights and not card.fetches and weights is None and not batch.random_weights:
        raise CheckpointError(
            f"model {batch.model!r} does not ship with weights; give --weights PATH ({card.weights}), or --random-weights "
            "to measure memory and time"
        )


def read_device(text: str) -> torch.device:
    """The device of this name.

    Raises:
        InputError: there is no such device here.
    """
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what torch raises differs by device
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0].split(". ")[0]
        raise InputError(f"device {text!r} cannot be used ({reason}); there is {', '.join(here)}") from error
    return device


def read_dtype(text: str) -> torch.dtype:
    """The dtype of this name; UnknownName if it is none that models are run in."""
    name = text.removeprefix("torch.")
    if name not in DTYPES:
        raise unknown_name("dtype", text, DTYPES)
    return DTYPES[name]


def load_profile(path: Path | None) -> AttentionProfile | None:
    """The profile in a file, if one is given.

    Raises:
        ProfileError: it is missing, or not a profile.
    """
    return None if path is None else AttentionProfile.load(path)


def profile_of(batch: Batch, weights: Path | None) -> AttentionProfile | None:
    """The profile that the model ships with, or that lies beside its weights, for images of this shape; none is of random
    weights.

    Raises:
        CheckpointError, ProfileError: the weights are not there, or the profile is damaged.
    """
    if batch.random_weights:
        return None
    return batch.card.profile_of(batch.geometry.schedule, weights=weights)


def sampling_of(model: str, *, guidance: str | None = None, guidance_at: str | None = None, **changes: Any) -> Sampling:
    """The model's sampling, with what was given changed; None and False leave it.

    Args:
        model: the name of what draws.
        guidance: a number, or one per scale, with commas.
        guidance_at: places, with commas.
        changes: fields of a sampling.

    Raises:
        InputError: a value is out of range, or no number.
    """
    if guidance is not None:
        changes["guidance"] = read_strengths(guidance)
    if guidance_at is not None:
        changes["guidance_at"] = read_places(guidance_at)
    return attrs.evolve(
        model_card(model).sampling, **{k: v for k, v in changes.items() if v is not None and v is not False}
    )


def read_strengths(text: str) -> float | tuple[float, ...]:
    """A strength of guidance, or one per scale.

    >>> read_strengths("3"), read_strengths("1, 1.5")
    (3.0, (1.0, 1.5))
    """
    try:
        strengths = tuple(float(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"--guidance wants a number, or one per scale with commas between; got {text!r}") from None
    return strengths[0] if len(strengths) == 1 else strengths


def read_places(text: str) -> tuple[int, ...]:
    """The places where guidance is applied.

    >>> read_places("0, -5")
    (0, -5)
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise InputError(
            f"--guidance-at wants whole numbers with commas between, 0 for the logits; got {text!r}"
        ) from None


def job_of(
    model: str,
    *,
    prompts: Sequence[str] | None,
    seeds: Sequence[int] | None,
    images: int | None,
    sampling: Sampling,
    paired: bool = False,
    **how: Any,
) -> Job:
    """Every prompt with every seed, or the first prompt with the first seed and so on.

    Args:
        model: the name of what draws.
        prompts: what to draw; the model's own example if there is none.
        seeds: the first one, or as many as images.
        images: images of each prompt.
        sampling: how tokens are drawn.
        paired: one seed for each prompt, in order.
        **how: aspect, size, dtype and random_weights of a :class:`~scalekv_core.memory.estimate.Batch`.

    Raises:
        InputError: there is nothing to draw, the numbers of seeds and images do not agree, the model generates no such images, or
            not with this sampling.
    """
    card = model_card(model)
    if not prompts and not card.example:
        raise InputError(f"model {model!r} has no example; say what to draw: scalekv generate PROMPT ...")
    prompts, each = list(prompts or [card.example]), seeds_of(seeds, images)
    if paired and (images is not None or len(each) != len(prompts)):
        raise InputError(
            f"--paired wants one --seed for each of {len(prompts)} prompts, and no --images; got {len(each)}"
        )
    drawn = tuple(prompts if paired else (prompt for prompt in prompts for _ in each))
    guided = card.rows_of(sampling) > 1
    batch = Batch(model=model, card=card, images=len(drawn), guidance=guided, **how)
    card.check_sampling(sampling, batch.geometry)
    return Job(prompts=drawn, seeds=tuple(each if paired else each * len(prompts)), sampling=sampling, batch=batch)


def seeds_of(seeds: Sequence[int] | None, images: int | None) -> list[int]:
    """One seed per image of a prompt.

    >>> seeds_of([7], 3), seeds_of([1, 5], None)
    ([7, 8, 9], [1, 5])
    """
    given = list(seeds or [0])
    if wrong := [seed for seed in given if not 0 <= seed < LARGEST]:
        raise InputError(f"a seed is from 0 to {LARGEST - 1}; got {wrong[0]}")
    if len(given) == 1:
        return list(range(given[0], given[0] + (images or 1)))
    if images not in (None, len(given)):
        raise InputError(f"{images} images of each prompt want one seed (the first) or {images}; got {len(given)}")
    return given
