"""Which published files an Infinity by name consists of, and how they become a model."""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import frozen

from scalekv_adapters.hub import fetched
from scalekv_adapters.infinity.checkpoint import load_bsq_vae, load_infinity
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.t5 import T5_FILES, T5_REPOSITORY, T5Encoder
from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import beside
from scalekv_core.models.weights.shards import shards_of

REPOSITORY = "FoundationVision/Infinity"
T5_FOLDERS = ("flan-t5-xl", "flan-t5-xl-official")


@frozen(kw_only=True)
class Published:
    """The official names of what a model is loaded from.

    Attributes:
        transformer: a file, or a folder of shards.
        vaes: a file, under each of the names that it goes by.
    """

    transformer: str
    vaes: tuple[str, ...]


FILES = {
    "infinity-125m": Published(transformer="infinity_125M_256x256.pth", vaes=("infinity_vae_d16.pth",)),
    "infinity-2b": Published(
        transformer="infinity_2b_reg.pth", vaes=("infinity_vae_d32reg.pth", "infinity_vae_d32_reg.pth")
    ),
    "infinity-8b": Published(transformer="infinity_8b_weights", vaes=("infinity_vae_d56_f8_14_patchify.pth",)),
}
"""{model: its official files}."""


@frozen(kw_only=True)
class Parts:
    """Where the parts of a model are."""

    transformer: Path
    vae: Path
    t5: Path


def folder_for(name: str) -> str:
    """What a folder for this model holds, for messages and lists."""
    files = FILES[name]
    return (
        f"a folder with {files.transformer}, {files.vaes[0]} (both from https://huggingface.co/{REPOSITORY}) and "
        f"{T5_FOLDERS[0]}/ (from https://huggingface.co/{T5_REPOSITORY})"
    )


def parts_of(name: str, weights: Path | None) -> Parts:
    """Where the parts of a published model are.

    Args:
        name: such as "infinity-2b".
        weights: a folder with all of them, as published or as ``scalekv convert`` made them; or the transformer's file or
            folder of shards, beside which the others are. None fetches them from the hub, into its own cache.

    Raises:
        CheckpointError: one is missing, or the hub cannot be reached.
        MissingExtra: nothing is given, and huggingface_hub is not installed.
    """
    return parts_in(name, Path(weights)) if weights is not None else parts_from_hub(name)


def parts_in(name: str, weights: Path) -> Parts:
    """Where the parts are in a folder, or beside a transformer; CheckpointError if one is missing."""
    files = FILES[name]
    named = weights.is_file() or weights.name == files.transformer or (weights.is_dir() and bool(shards_of(weights)))
    folder = weights.parent if named else weights
    transformer = weights if named else beside(folder, files.transformer)
    vae = _first([beside(folder, vae) for vae in files.vaes])
    t5 = _first([folder / t5 for t5 in T5_FOLDERS])
    if missing := [str(path) for path in (transformer, vae, t5) if not path.exists()]:
        raise CheckpointError(f"model {name!r} lacks {' and '.join(missing)}; give {folder_for(name)}")
    return Parts(transformer=transformer, vae=vae, t5=t5)


def parts_from_hub(name: str) -> Parts:
    """Where the parts are in the hub's cache, after they were fetched if they were not there."""
    files = FILES[name]
    otherwise = f"or give --weights PATH ({folder_for(name)}), or --random-weights to measure memory and time"
    folder = fetched(REPOSITORY, [files.transformer, f"{files.transformer}/*", files.vaes[0]], otherwise=otherwise)
    t5 = fetched(T5_REPOSITORY, T5_FILES, otherwise=otherwise)
    parts = Parts(transformer=folder / files.transformer, vae=folder / files.vaes[0], t5=t5)
    if missing := [path.name for path in (parts.transformer, parts.vae) if not path.exists()]:
        raise CheckpointError(
            f"the hub's cache of {REPOSITORY} lacks {' and '.join(missing)} and cannot fetch it; {otherwise}"
        )
    return parts


def load_parts(
    name: str,
    parts: Parts,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_nonfinite: bool = False,
) -> tuple[Infinity, T5Encoder]:
    """The model with its VAE, and what reads prompts for it.

    Args:
        name: what the parts should be, such as "infinity-2b".
        parts: where they are.
        device: where all of it runs.
        dtype: of blocks and text projections; the rest and the VAE are in float32.
        allow_nonfinite: accept weights and text features that hold NaN or infinity.

    Raises:
        CheckpointError: a part is truncated, holds code, is another model than `name`, or the parts do not fit each other.
    """
    encoder = T5Encoder(parts.t5, device=device, allow_nonfinite=allow_nonfinite)
    vae = load_bsq_vae(parts.vae, device=device, allow_nonfinite=allow_nonfinite)
    bits = InfinityConfig.published(name).bits
    if vae.config.bits != bits:
        raise CheckpointError(
            f"model {name!r} needs a VAE of {bits} bits, as {FILES[name].vaes[0]} is; {parts.vae} has {vae.config.bits}"
        )
    infinity = load_infinity(
        parts.transformer, vae=vae, expect=name, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite
    )
    return infinity, encoder


def _first(paths: list[Path]) -> Path:
    """The first that is there; the first of all if none is, to be named as missing."""
    return next((path for path in paths if path.exists()), paths[0])
