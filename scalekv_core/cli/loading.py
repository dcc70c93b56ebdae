"""From names to what is loaded: models, devices, dtypes and profiles."""

from __future__ import annotations

from pathlib import Path

import torch

from scalekv_core.cli.installed import the_registry
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import CheckpointError, InputError, unknown_name
from scalekv_core.memory.estimate import Batch
from scalekv_core.models.image_model import ImageModel
from scalekv_core.plugins import registry as registries

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
