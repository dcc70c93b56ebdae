"""What ``scalekv convert`` does: every network that a file or folder holds, each into a safetensors file of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from attrs import frozen

from scalekv_core.errors import CheckpointError, InputError
from scalekv_core.models.weights.files import SUFFIXES, is_file, is_folder, readable
from scalekv_core.models.weights.format import WeightsFormat
from scalekv_core.models.weights.shards import entries, shards_of
from scalekv_core.models.weights.source import Weights, find_weights, formats_in
from scalekv_core.models.weights.states import some
from scalekv_core.models.weights.writing import layout, write_safetensors
from scalekv_core.shapes.geometry import format_bytes


@frozen(eq=False)
class Conversion:
    """One network to be written.

    Attributes:
        weights: where it is.
        name: of the file that it becomes.
        dtype: of the numbers in that file; None leaves them as they are.
    """

    weights: Weights
    name: str
    dtype: torch.dtype | None

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return layout(self.weights, self.dtype, self.metadata).nbytes

    @property
    def metadata(self) -> dict[str, str]:
        """What the header of the file says."""
        return {"kind": self.weights.format.kind, "converted_from": self.weights.path.name}

    def write(self, folder: Path, advance: Callable[[int], None] = lambda nbytes: None) -> None:
        """Writes the file into this folder, tensor by tensor; ``advance`` is called with the bytes of each."""
        write_safetensors(self.weights, folder / self.name, dtype=self.dtype, metadata=self.metadata, advance=advance)


def conversions(
    source: Path, known: Sequence[WeightsFormat], *, dtype: torch.dtype | None = None
) -> tuple[list[Conversion], list[Path]]:
    """What of a file or folder can be converted, and what of it is no known network.

    Args:
        source: a file, a folder of shards, or a folder with several of both.
        known: the networks that may be there.
        dtype: of the numbers in the new files; None leaves them as they are.

    Raises:
        CheckpointError: a file or shard is missing, truncated or holds code; there is no known network at all.
        InputError: two networks would get the same name.
    """
    found: list[Conversion] = []
    left: list[Path] = []
    for path in _candidates(source):
        formats = formats_in(path, known)
        several = len(formats) > 1
        for format in formats:
            stem = path.name if path.is_dir() else path.stem
            name = f"{stem}-{format.kind.lower()}.safetensors" if several else f"{stem}.safetensors"
            found.append(Conversion(find_weights(path, format), name, None if format.stays_as_it_is else dtype))
        if not formats:
            left.append(path)
    if not found:
        kinds = ", ".join(dict.fromkeys(format.kind for format in known)) or "none"
        inside = some([path.name for path in left] or ([] if source.is_file() else entries(source)))
        raise CheckpointError(
            f"{source} holds no weights of a known network ({kinds}); it holds {inside}; scalekv models says which files "
            "each model is loaded from"
        )
    names = [one.name for one in found]
    if twice := [one.weights.path.name for one in found if names.count(one.name) > 1]:
        raise InputError(f"{some(twice)} in {source} would be written to the same file; convert one of them at a time")
    return found, left


def check_disk_space(found: Sequence[Conversion], out: Path) -> None:
    """Refuses what would overwrite a file, or not fit; called before anything is written.

    Raises:
        InputError: a file is already there, or there is not enough room on the disk.
    """
    if there := [one.name for one in found if (out / one.name).exists()]:
        raise InputError(f"{out / there[0]} is already there; move it away, or choose another directory with --out")
    place = next(place for place in (out, *out.absolute().parents) if place.exists())
    needed, free = sum(one.nbytes for one in found), shutil.disk_usage(place).free
    if needed > free:
        raise InputError(f"the converted weights take {format_bytes(needed)}; {place} has {format_bytes(free)} free")


def _candidates(source: Path) -> list[Path]:
    """The files and folders of shards that a source consists of; the source itself if it is one."""
    with readable(source):
        if not is_folder(source) or shards_of(source):
            return [source]
        inside = [source / name for name in entries(source)]
        return [path for path in inside if _is_weights(path)]


def _is_weights(path: Path) -> bool:
    return path.suffix in SUFFIXES if is_file(path) else is_folder(path) and bool(shards_of(path))
