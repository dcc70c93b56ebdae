"""Which files a checkpoint consists of: itself, or the shards of a folder, as hubs keep large models."""

from __future__ import annotations

import json
import os
import re
from fnmatch import fnmatch
from pathlib import Path

from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights.files import SUFFIXES, is_file, is_folder, readable
from scalekv_core.models.weights.states import some

INDEX = "*.index.json"
"""The file that says which shard of a folder holds which tensor."""
NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<suffix>\.\w+)")
"""What shards are called."""


def files_of(path: Path) -> tuple[Path, ...]:
    """The file itself, or the shards of a folder, all of which are there.

    Raises:
        CheckpointError: there is nothing or it cannot be read, the folder is no sharded checkpoint, or a shard is missing.
    """
    with readable(path):
        if not is_folder(path):
            if not is_file(path):
                raise CheckpointError(f"there is no checkpoint {path}")
            return (path,)
    shards = shards_of(path)
    if not shards:
        inside = some(entries(path))
        raise CheckpointError(f"folder {path} is no sharded checkpoint: there is no {INDEX} in it; it holds {inside}")
    with readable(path):
        missing = [shard.name for shard in shards if not is_file(shard)]
    if missing:
        raise CheckpointError(f"checkpoint {path} lacks the shards {some(missing)}; fetch them into that folder")
    return shards


def shards_of(folder: Path) -> tuple[Path, ...]:
    """The shards that a folder should have, by its index or, without one, by the numbers in their names; maybe none.

    Raises:
        CheckpointError: the folder cannot be read, its index is damaged, or there are several for the same kind of file.
    """
    names = entries(folder)
    if index := _index_of(folder, names):
        return tuple(folder / name for name in _listed(index))
    matches = [m for name in names if (m := NUMBERED.fullmatch(name)) and m["suffix"] in SUFFIXES]
    wanted = {
        f"{m['stem']}-{number:05d}-of-{m['count']}{m['suffix']}"
        for m in matches
        for number in range(1, int(m["count"]) + 1)
    }
    return tuple(folder / name for name in sorted(wanted))


def entries(folder: Path) -> list[str]:
    """The names of all that is in a folder, sorted; CheckpointError if it cannot be read."""
    with readable(folder):
        return sorted(os.listdir(folder))


def _index_of(folder: Path, names: list[str]) -> Path | None:
    """The index of a folder, if it has one; of two, as hubs keep them, that of the safetensors files."""
    indices = [name for name in names if fnmatch(name, INDEX)]
    chosen = [name for name in indices if ".safetensors" in name] or indices
    if len(chosen) > 1:
        raise CheckpointError(f"folder {folder} has several indices ({some(chosen)}); leave only one")
    return folder / chosen[0] if chosen else None


def _listed(index: Path) -> list[str]:
    """The files that an index names, each once."""
    try:
        with readable(index):
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"index {index} is damaged: it has no weight_map of names to files; fetch it again"
        ) from None
    if not names:
        raise CheckpointError(f"index {index} has an empty weight_map; fetch it again")
    if strange := [name for name in names if not isinstance(name, str) or name != Path(name).name]:
        raise CheckpointError(f"index {index} names {some([repr(strange[0])])}, which is not a file in its folder")
    return names
