"""Which published files a HART consists of."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from scalekv_adapters.hub import fetched
from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import beside

REPOSITORY = "mit-han-lab/hart-0.7b-1024px"
TEXT_REPOSITORY = "mit-han-lab/Qwen2-VL-1.5B-Instruct"
TEXT_FOLDER = "Qwen2-VL-1.5B-Instruct"
WEIGHTS = ("ema_model.bin", "model.safetensors", "pytorch_model.bin")
"""In this order: the official sampling uses the averaged weights."""
TOKENIZER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"


@frozen(kw_only=True)
class Parts:
    """Where the parts of a model are."""

    transformer: Path
    config: Path
    tokenizer: Path
    text: Path


def folder_for(name: str) -> str:
    """What a folder for this model holds, for messages and lists."""
    return (
        f"a folder with llm/ ({CONFIG}, {WEIGHTS[0]}) and tokenizer/ (both from https://huggingface.co/{REPOSITORY}) and "
        f"{TEXT_FOLDER}/ (from https://huggingface.co/{TEXT_REPOSITORY})"
    )


def parts_of(name: str, weights: Path | None) -> Parts:
    """Where the parts are, in a folder as published, or in the hub's cache after they were fetched.

    Raises:
        CheckpointError: one is missing, or the hub cannot be reached.
        MissingExtra: nothing is given, and huggingface_hub is not installed.
    """
    if weights is not None:
        folder = Path(weights)
        return _parts_in(name, folder, folder / TEXT_FOLDER)
    otherwise = f"or give --weights PATH ({folder_for(name)}), or --random-weights to measure memory and time"
    folder = fetched(REPOSITORY, ("llm/*", "tokenizer/*"), otherwise=otherwise)
    return _parts_in(name, folder, fetched(TEXT_REPOSITORY, ("*",), otherwise=otherwise))


def _parts_in(name: str, folder: Path, text: Path) -> Parts:
    parts = Parts(
        transformer=_first(folder / "llm", WEIGHTS),
        config=folder / "llm" / CONFIG,
        tokenizer=_first(folder / "tokenizer", TOKENIZER_WEIGHTS),
        text=text,
    )
    everything = (parts.transformer, parts.config, parts.tokenizer, parts.text)
    if missing := [str(path) for path in everything if not path.exists()]:
        raise CheckpointError(f"model {name!r} lacks {' and '.join(missing)}; give {folder_for(name)}")
    return parts


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    """The first that is there, as published or converted; the first of all if none is, to be named as missing."""
    paths = [beside(folder, name) for name in names]
    return next((path for path in paths if path.exists()), paths[0])
