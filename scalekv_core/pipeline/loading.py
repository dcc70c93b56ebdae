"""From names to what is loaded: models, devices, dtypes and profiles."""

from __future__ import annotations

from pathlib import Path

import torch

from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import CheckpointError, InputError
from scalekv_core.memory.batch import Batch
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.requests import read_device, read_dtype
from scalekv_core.plugins import registry as registries
from scalekv_core.plugins.registry import Registry

__all__ = [
    "check_weights", "load_model", "load_profile", "profile_of", "read_device", "read_dtype",
]  # fmt: skip


def load_model(
    batch: Batch,
    *,
    weights: Path | None,
    device: str | torch.device,
    allow_nonfinite: bool = False,
    registry: Registry | None = None,
) -> ImageModel:
    """The model of a batch, ready to generate images of its aspect ratio and size.

    Args:
        batch: also says its dtype, and whether its weights are random.
        weights: file or folder, for models whose weights do not ship.
        device: where it runs.
        allow_nonfinite: accept weights and text features that hold NaN or infinity.
        registry: where its name is looked up; the installed plugins by default.

    Raises:
        InputError, CheckpointError: no such device; the weights cannot be used.
    """
    check_weights(batch, weights)
    place, dtype = str(read_device(device)), batch.geometry.dtype
    if batch.random_weights:
        loaded = batch.card.random(device=place, dtype=dtype)
    else:
        loaded = registries.load_model(
            batch.model,
            weights=weights,
            device=place,
            dtype=dtype,
            allow_nonfinite=allow_nonfinite,
            registry=registry,
        )
    loaded.set_shape(aspect=batch.aspect, size=batch.size)
    return loaded


def check_weights(batch: Batch, weights: Path | None) -> None:
    """Raises InputError or CheckpointError unless weights are given where they are needed, and nowhere else."""
    card = batch.card
    if batch.random_weights and weights is not None:
        raise InputError(f"--random-weights replaces --weights; give one of them (got {weights})")
    if card.needs_weights and not card.fetches and weights is None and not batch.random_weights:
        raise CheckpointError(
            f"model {batch.model!r} does not ship with weights; give --weights PATH ({card.weights}), or --random-weights "
            "to measure memory and time"
        )


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
