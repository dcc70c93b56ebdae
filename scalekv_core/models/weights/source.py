"""The weights of one network, in a file or in a folder of shards; one shard is read after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen
from torch import Tensor

from scalekv_core.errors import CheckpointError, ScaleKVError
from scalekv_core.models.weights.files import read_file, readable
from scalekv_core.models.weights.format import WeightsFormat
from scalekv_core.models.weights.shards import files_of
from scalekv_core.models.weights.states import State, some, state_dicts


@frozen(eq=False)
class Weights:
    """The weights of one network, under the names and in the shapes that its module has.

    Attributes:
        path: the file or folder that the user named.
        format: of the network.
        files: one file, or the shards of a folder.
        shapes: {name: a tensor on the meta device}, of all of them.
    """

    path: Path
    format: WeightsFormat
    files: tuple[Path, ...]
    shapes: State

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they are stored in the files."""
        return sum(shape.nbytes for shape in self.shapes.values())

    def shards(self) -> Iterator[State]:
        """The tensors, file by file: mapped where the file allows it; never more than one file is held.

        A mapping is empty when the next one comes, so that a remaining variable never holds two shards.
        """
        for file in self.files:
            state = normal(self.format, _state_in(file, self.format), file)
            yield state
            state.clear()

    def tensor(self, name: str) -> Tensor:
        """One tensor, for a size that only its content tells; CheckpointError if it is not there."""
        for state in self.shards():
            if name in state:
                return state[name]
        raise CheckpointError(f"it lacks {name!r}")

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """A block that reads sizes off the weights; whatever does not fit together there is an error of this checkpoint.

        Raises:
            CheckpointError: naming the checkpoint and its kind, with the reason that was raised inside.
        """
        try:
            yield
        except (ScaleKVError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"checkpoint {self.path} cannot be loaded as {self.format.kind}: {reason}") from None


def shape_of(state: State, name: str, dims: int) -> tuple[int, ...]:
    """The shape of a tensor, which tells sizes of the model.

    Raises:
        CheckpointError: it is not there, is empty, or has another number of dimensions.
    """
    if name not in state:
        raise CheckpointError(f"it lacks {name!r}")
    shape = tuple(state[name].shape)
    if len(shape) != dims or not all(shape):
        raise CheckpointError(f"{name!r} has the shape {shape}; wanted {dims} dimensions, none of them 0")
    return shape


def normal(format: WeightsFormat, state: State, path: Path) -> dict[str, Tensor]:
    """A state dict of a file under the names and in the shapes of its module; CheckpointError if a shape cannot be that."""
    made: dict[str, Tensor] = {}
    for name, found in state.items():
        try:
            made |= format.normal(name, found)
        except (IndexError, RuntimeError):
            raise CheckpointError(
                f"checkpoint {path} is no {format.kind}: {some([name])} has the shape {tuple(found.shape)}"
            ) from None
    return made


def find_weights(path: Path, format: WeightsFormat, *, known: Sequence[WeightsFormat] = ()) -> Weights:
    """The weights of a network in a file or folder; reads only their names and shapes.

    Args:
        path: a file, or a folder of shards.
        format: of the network.
        known: other formats, so that an error can say what was found instead.

    Raises:
        CheckpointError: a file or shard is missing, cannot be read, is truncated, or holds more than tensors; or it holds
            another network.
    """
    files = files_of(path)
    shapes: dict[str, Tensor] = {}
    for file in files:
        state = normal(format, _on_meta(file, _state_in(file, format)), file)
        if twice := [name for name in state if name in shapes]:
            raise CheckpointError(f"checkpoint {path} has {some(twice)} in more than one shard; fetch it again")
        shapes |= state
    if not format.knows(shapes):
        raise CheckpointError(
            f"checkpoint {path} is no {format.kind}: there is no {format.marker!r} in it; {_got(path, known)}"
        )
    return Weights(path, format, files, shapes)


def formats_in(path: Path, known: Sequence[WeightsFormat]) -> list[WeightsFormat]:
    """The formats of the networks in a file or folder of shards; a trainer's file may hold several.

    Raises:
        CheckpointError: as `find_weights`.
    """
    candidates = _candidates(path)
    return [format for format in known if any(format.knows(names) for names in candidates)]


def beside(folder: Path, name: str) -> Path:
    """The weights of this official name in a folder; what ``scalekv convert`` made of them, if that is there.

    Args:
        folder: where to look.
        name: of a file, or of a folder of shards.
    """
    converted = folder / f"{Path(name).stem}.safetensors"
    return converted if converted.is_file() else folder / name


def _state_in(file: Path, format: WeightsFormat) -> State:
    """The state dict of this network in a file; in a shard without the format's marker, the first one."""
    states = state_dicts(read_file(file))
    return next((state for state in states if format.knows(state)), states[0])


def _candidates(path: Path) -> list[set[str]]:
    """The names in every state dict of a file; of shards, in all of them together."""
    files = files_of(path)
    if len(files) == 1:
        return [set(state) for state in state_dicts(read_file(files[0]))]
    return [{name for file in files for name in state_dicts(read_file(file))[0]}]


def _got(path: Path, known: Sequence[WeightsFormat]) -> str:
    """What was found instead of what was wanted."""
    if found := formats_in(path, known):
        return f"it is {'an' if found[0].kind[0] in 'AEIOU' else 'a'} {found[0].kind}"
    return f"it holds {some(read_file(files_of(path)[0]))}"


def _on_meta(file: Path, state: State) -> State:
    """The shapes of these tensors, none of which may claim to be larger than the file: strides of 0 repeat numbers."""
    with readable(file):
        size = file.stat().st_size
    if large := [name for name, value in state.items() if value.nbytes > size]:
        shape = tuple(state[large[0]].shape)
        raise CheckpointError(f"checkpoint {file} has {size} bytes, too few for {some(large[:1])} of the shape {shape}")
    return {name: value.to("meta") for name, value in state.items()}
