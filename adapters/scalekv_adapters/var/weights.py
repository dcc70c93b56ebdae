"""Weights from files into models: the part of reading a checkpoint that knows no model.

Weights are read without running anything that a file asks for, mapped rather than copied where the format allows it, and
put into a model that was built without memory of its own. Names and shapes must fit exactly.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from scalekv_core.errors import CheckpointError

State = Mapping[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)
NESTINGS = ("trainer", "var_wo_ddp", "vae_local", "state_dict", "model", "module")  # where trainers put a state dict
PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name


def read_file(path: Path) -> Mapping[str, Any]:
    """What a .safetensors or PyTorch file holds, on the CPU.

    Raises:
        CheckpointError: there is no such file, it is truncated or of another format, or it holds more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    tree = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"checkpoint {path} holds one {type(tree).__name__}, not tensors by name")
    return tree


def read_safetensors(path: Path) -> Mapping[str, Any]:
    """The tensors of a .safetensors file."""
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"checkpoint {path} is truncated or no safetensors file: {error}") from None


def read_pickle(path: Path) -> Any:
    """The content of a PyTorch file, tensors and plain containers only."""
    with path.open("rb") as file:
        starts_as_zip = file.read(4) == b"PK\x03\x04"
    if starts_as_zip and not zipfile.is_zipfile(path):
        raise CheckpointError(f"checkpoint {path} is truncated ({path.stat().st_size} bytes); fetch it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=starts_as_zip)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise CheckpointError(f"checkpoint {path} is no PyTorch file") from None
        what = f"it asks for {asked[1]}"
        raise CheckpointError(f"checkpoint {path} holds more than tensors ({what}) and was not loaded") from None
    except Exception as error:  # there is no end to the ways in which damaged bytes can fail to be a pickle
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {path} is damaged or no PyTorch file: {reason}") from None


def find_state(path: Path, kind: str, markers: Mapping[str, str]) -> State:
    """The state dict of a model in a file, unwrapped from what trainers put around it.

    Args:
        path: the file.
        kind: what is wanted, a key of `markers`.
        markers: {kind: name of a tensor that only this kind of model has}.

    Raises:
        CheckpointError: see `read_file`; or there is no such model in the file.
    """
    tree = read_file(path)
    states = [strip_prefixes(level) for level in nested(tree)]
    for state in states:
        if markers[kind] in state:
            return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    found = [other for other, marker in markers.items() if any(marker in state for state in states)]
    got = f"it is a {found[0]}" if found else f"it holds {some(tree)}"
    raise CheckpointError(f"checkpoint {path} is no {kind}: there is no {markers[kind]!r} in it; {got}")


def nested(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The mapping itself, and those inside it under the names that trainers use."""
    yield tree
    for name in NESTINGS:
        if isinstance(tree.get(name), Mapping):
            yield from nested(tree[name])


def strip_prefixes(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same mapping without the prefixes that wrappers put before every name.

    >>> strip_prefixes({"module._orig_mod.head": 1})
    {'head': 1}
    """
    for prefix in PREFIXES:
        if state and all(str(name).startswith(prefix) for name in state):
            return strip_prefixes({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def fill(model: Model, state: State, path: Path, *, device: torch.device | str, dtype: torch.dtype) -> Model:
    """The same model, its tensors replaced by those of the state dict, in evaluation mode.

    Args:
        model: built on the meta device.
        state: names and shapes exactly those of the model; the dtype may be another, integers stay what they are.
        path: where the state came from, for messages.
        device, dtype: where and how to keep the weights.

    Raises:
        CheckpointError: names are missing or not known, or a shape is another.
    """
    check_fit(model.state_dict(), state, path)
    cast = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in state.items()}
    model.load_state_dict(cast, strict=True, assign=True)
    return model.eval()


def check_fit(wanted: State, got: State, path: Path) -> None:
    """Raises CheckpointError unless both have the same names and shapes."""
    problems = []
    if missing := [name for name in wanted if name not in got]:
        problems.append(f"{len(missing)} tensors are missing ({some(missing)})")
    if unknown := [name for name in got if name not in wanted]:
        problems.append(f"{len(unknown)} are not known ({some(unknown)})")
    if others := [name for name in wanted if name in got and wanted[name].shape != got[name].shape]:
        shapes = f"{others[0]}: {tuple(got[others[0]].shape)} instead of {tuple(wanted[others[0]].shape)}"
        problems.append(f"{len(others)} have another shape ({shapes})")
    if problems:
        raise CheckpointError(f"checkpoint {path} does not fit its model: {'; '.join(problems)}")


def some(names: Iterable[object]) -> str:
    """The first three names, and that there are more.

    >>> some(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    listed = [str(name) for name in names]
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return (", ".join(listed[:3]) or "nothing") + more
