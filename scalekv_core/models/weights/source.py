"""Where the weights of a model lie: in one file, or in a folder of shards. They are read one shard after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen
from torch import Tensor

from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights.files import SUFFIXES, State, read_file, some, state_dicts
from scalekv_core.models.weights.format import WeightsFormat

INDEX = "*.index.json"
"""The file that says which shard of a folder holds which tensor."""
NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
"""What shards are called."""


@frozen(eq=False)
class Weights:
    """The weights of one network, under the names and in the shapes that its module has.

    Attributes:
        path: the file or folder that the user named.
        format: what network it is.
        files: where the tensors are: one file, or the shards of a folder.
        shapes: {name: a tensor on the meta device}, of all of them.
    """

    path: Path
    format: WeightsFormat
    files: tuple[Path, ...]
    shapes: State

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they lie in the files."""
        return sum(shape.nbytes for shape in self.shapes.values())

    def shards(self) -> Iterator[State]:
        """The tensors, file by file: mapped where the file allows it, and never more than one file held.

        A mapping is empty when the next one comes, so that nobody holds two shards by a variable that is still there.
        """
        for file in self.files:
            state = normal(self.format, _state_in(file, self.format))
            yield state
            state.clear()

    def tensor(self, name: str) -> Tensor:
        """One tensor, for a size that only its content tells; CheckpointError if it is not there."""
        for state in self.shards():
            if name in state:
                return state[name]
        raise CheckpointError(f"checkpoint {self.path} is no complete {self.format.kind}: it lacks {name!r}")


def normal(format: WeightsFormat, state: State) -> dict[str, Tensor]:
    """A state dict as its module has it."""
    return {name: value for old, found in state.items() for name, value in format.normal(old, found).items()}


def find_weights(path: Path, format: WeightsFormat, *, known: Sequence[WeightsFormat] = ()) -> Weights:
    """The weights of a network in a file or folder; only their names and shapes are read.

    Args:
        path: a file, or a folder of shards.
        format: what network is wanted.
        known: other networks that it may be, to say what was found instead.

    Raises:
        CheckpointError: a file or shard is missing, truncated, or holds code; or there is no such network.
    """
    files = files_of(path)
    shapes: dict[str, Tensor] = {}
    for file in files:
        state = normal(format, _on_meta(_state_in(file, format)))
        if twice := [name for name in state if name in shapes]:
            raise CheckpointError(f"checkpoint {path} has {some(twice)} in more than one shard; fetch it again")
        shapes |= state
    if not format.knows(shapes):
        raise CheckpointError(
            f"checkpoint {path} is no {format.kind}: there is no {format.marker!r} in it; {_got(path, known)}"
        )
    return Weights(path, format, files, shapes)


def formats_in(path: Path, known: Sequence[WeightsFormat]) -> list[WeightsFormat]:
    """Which of these networks a file or folder of shards holds; a trainer's file may hold several.

    Raises:
        CheckpointError: as `find_weights`.
    """
    candidates = _candidates(path)
    return [format for format in known if any(format.knows(names) for names in candidates)]


def beside(folder: Path, name: str) -> Path:
    """The weights of this official name in a folder: what ``scalekv convert`` made of them, if that is there.

    Args:
        folder: where to look.
        name: of a file, or of a folder of shards.
    """
    converted = folder / f"{Path(name).stem}.safetensors"
    return converted if converted.is_file() else folder / name


def files_of(path: Path) -> tuple[Path, ...]:
    """The file itself, or the shards of a folder, all of which are there.

    Raises:
        CheckpointError: there is nothing, the folder is no sharded checkpoint, or a shard is missing.
    """
    if not path.is_dir():
        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint {path}")
        return (path,)
    shards = shards_of(path)
    if not shards:
        inside = some(sorted(entry.name for entry in path.iterdir()))
        raise CheckpointError(f"folder {path} is no sharded checkpoint: there is no {INDEX} in it; it holds {inside}")
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise CheckpointError(f"checkpoint {path} lacks the shards {some(missing)}; fetch them into that folder")
    return shards


def shards_of(folder: Path) -> tuple[Path, ...]:
    """The shards that a folder should have, by its index or, without one, by the numbers in their names; maybe none.

    Raises:
        CheckpointError: the index is damaged, or there are several for the same kind of file.
    """
    if index := _index_of(folder):
        return tuple(folder / name for name in _listed(index))
    matches = [
        m for entry in sorted(folder.iterdir()) if (m := NUMBERED.fullmatch(entry.name)) and m["suffix"] in SUFFIXES
    ]
    wanted = {
        f"{m['stem']}-{number:05d}-of-{m['count']}{m['suffix']}"
        for m in matches
        for number in range(1, int(m["count"]) + 1)
    }
    return tuple(folder / name for name in sorted(wanted))


def _index_of(folder: Path) -> Path | None:
    """The index of a folder, if it has one; of two, as hubs keep them, that of the safetensors files."""
    indices = sorted(folder.glob(INDEX))
    chosen = [index for index in indices if ".safetensors" in index.suffixes] or indices
    if len(chosen) > 1:
        raise CheckpointError(f"folder {folder} has several indices ({some(i.name for i in chosen)}); leave only one")
    return chosen[0] if chosen else None


def _listed(index: Path) -> list[str]:
    """The files that an index names, each once."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"index {index} is damaged: it has no weight_map of names to files; fetch it again"
        ) from None
    if strange := [name for name in names if not isinstance(name, str) or name != Path(name).name]:
        raise CheckpointError(f"index {index} names {strange[0]!r}, which is no file of its folder")
    return names


def _state_in(file: Path, format: WeightsFormat) -> State:
    """The state dict of this network in a file; of a shard, which may lack what tells the network, the file's own."""
    states = state_dicts(read_file(file))
    return next((state for state in states if format.knows(state)), states[0])


def _candidates(path: Path) -> list[set[str]]:
    """The names of every state dict that a file, or all shards of a folder together, may be said to hold."""
    files = files_of(path)
    if len(files) == 1:
        return [set(state) for state in state_dicts(read_file(files[0]))]
    return [{name for file in files for name in state_dicts(read_file(file))[0]}]


def _got(path: Path, known: Sequence[WeightsFormat]) -> str:
    """What was found instead of what was wanted."""
    if found := formats_in(path, known):
        return f"it is {'an' if found[0].kind[0] in 'AEIOU' else 'a'} {found[0].kind}"
    return f"it holds {some(read_file(files_of(path)[0]))}"


def _on_meta(state: State) -> State:
    return {name: value.to("meta") for name, value in state.items()}
