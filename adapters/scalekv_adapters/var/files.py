"""Which published files a VAR by name consists of."""

from __future__ import annotations

from pathlib import Path

from scalekv_adapters.hub import fetched
from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import beside

FILES = {
    "var-d16": "var_d16.pth",
    "var-d20": "var_d20.pth",
    "var-d24": "var_d24.pth",
    "var-d30": "var_d30.pth",
    "var-d36-512": "var_d36.pth",
}
"""{model: official name of its weights}."""
VQVAE_FILE = "vae_ch160v4096z32.pth"
REPOSITORY = "FoundationVision/var"


def folder_for(name: str) -> str:
    """What a folder for this model holds, for messages and lists."""
    return f"a folder with {FILES[name]} and {VQVAE_FILE}, from https://huggingface.co/{REPOSITORY}"


def parts_of(name: str, weights: Path | None) -> tuple[Path, Path]:
    """The transformer's and the VQVAE's file of a published model.

    Args:
        name: such as "var-d16".
        weights: a folder with both, as published or as ``scalekv convert`` made them; or the transformer's file, beside
            which the other one is. None fetches them from the hub, into its own cache.

    Raises:
        CheckpointError: one of them is missing, or cannot be fetched.
        MissingExtra: no weights are given, and huggingface_hub is not installed.
    """
    if weights is None:
        weights = fetched(REPOSITORY, (FILES[name], VQVAE_FILE), otherwise=f"or give {folder_for(name)}")
    weights = Path(weights)
    folder = weights if weights.is_dir() else weights.parent
    transformer = beside(folder, FILES[name]) if weights.is_dir() else weights
    vqvae = beside(folder, VQVAE_FILE)
    if missing := [str(file) for file in (transformer, vqvae) if not file.is_file()]:
        raise CheckpointError(f"model {name!r} lacks {' and '.join(missing)}; give {folder_for(name)}")
    return transformer, vqvae
