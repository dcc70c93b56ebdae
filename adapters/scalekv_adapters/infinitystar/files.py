"""Which published files an InfinityStar consists of."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from scalekv_adapters.hub import fetched
from scalekv_adapters.infinitystar.templates import SIZES
from scalekv_adapters.t5 import T5_FILES, T5_REPOSITORY
from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import beside
from scalekv_core.models.weights.shards import shards_of

REPOSITORY = "FoundationVision/InfinityStar"
TRANSFORMERS = {size: f"infinitystar_8b_{size}_weights" for size in SIZES}
"""{size: the folder of shards that was trained for it}."""
TOKENIZER = "infinitystar_videovae.pth"
T5_FOLDERS = ("flan-t5-xl", "flan-t5-xl-official", "text_encoder/flan-t5-xl", "text_encoder/flan-t5-xl-official")
FOLDER = (
    f"a folder with {TRANSFORMERS['480p']}/ or {TRANSFORMERS['720p']}/, {TOKENIZER} (from "
    f"https://huggingface.co/{REPOSITORY}) and {T5_FOLDERS[0]}/ (from https://huggingface.co/{T5_REPOSITORY})"
)
"""What a folder for it holds, for messages and lists."""


@frozen(kw_only=True)
class Parts:
    """Where the parts of a model are.

    Attributes:
        transformer, tokenizer, t5: files or folders.
        size: that the transformer was trained for, by its name; None if that does not tell.
    """

    transformer: Path
    tokenizer: Path
    t5: Path
    size: str | None


def parts_of(name: str, weights: Path | None) -> Parts:
    """Where the parts are.

    Args:
        name: of the model, for messages.
        weights: a folder with all of them, or the transformer's folder or file, beside which the others are. None fetches those
            for 480p from the hub, if they are not in its cache.

    Raises:
        CheckpointError: one is missing, there are transformers for two sizes, or the hub cannot be reached.
        MissingExtra: nothing is given, and huggingface_hub is not installed.
    """
    if weights is not None:
        return _parts_in(name, Path(weights))
    otherwise = f"or give --weights PATH ({FOLDER}), or --random-weights to measure memory and time"
    folder = fetched(REPOSITORY, (f"{TRANSFORMERS['480p']}/*", TOKENIZER), otherwise=otherwise)
    return _checked(name, folder / TRANSFORMERS["480p"], folder, fetched(T5_REPOSITORY, T5_FILES, otherwise=otherwise))


def _parts_in(name: str, weights: Path) -> Parts:
    is_transformer = (
        weights.is_file() or weights.name in TRANSFORMERS.values() or (weights.is_dir() and shards_of(weights))
    )
    folder = weights.parent if is_transformer else weights
    t5 = next((folder / t5 for t5 in T5_FOLDERS if (folder / t5).exists()), folder / T5_FOLDERS[0])
    return _checked(name, weights if is_transformer else _only_transformer(folder), folder, t5)


def _only_transformer(folder: Path) -> Path:
    there = [path for published in TRANSFORMERS.values() if (path := beside(folder, published)).exists()]
    if len(there) > 1:
        raise CheckpointError(f"{folder} has transformers for two sizes; give one of them: --weights {there[0]}")
    return there[0] if there else folder / TRANSFORMERS["480p"]


def _checked(name: str, transformer: Path, folder: Path, t5: Path) -> Parts:
    tokenizer = beside(folder, TOKENIZER)
    if missing := [str(path) for path in (transformer, tokenizer, t5) if not path.exists()]:
        raise CheckpointError(f"model {name!r} lacks {' and '.join(missing)}; give {FOLDER}")
    size = next((size for size, published in TRANSFORMERS.items() if transformer.stem == published), None)
    return Parts(transformer=transformer, tokenizer=tokenizer, t5=t5, size=size)
