"""One weights file, read as data: nothing that it asks for is run, and nothing is copied where it can be mapped.

All that can be wrong with a file ends in a `CheckpointError` of one line.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from scalekv_core.errors import CheckpointError

State = Mapping[str, Tensor]
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""What weights files end with."""
NESTINGS = ("trainer", "gpt_fsdp", "gpt_wo_ddp", "var_wo_ddp", "vae_local", "vae", "state_dict", "model", "module")
"""Where trainers put a state dict; averaged twins ("ema") are not among them, as in the official loaders."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


def read_file(path: Path) -> Mapping[str, Any]:
    """What a .safetensors or PyTorch file holds, on the CPU.

    Raises:
        CheckpointError: there is no such file, it cannot be read, is truncated or of another format, or it holds more than
            tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        tree = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror or error}") from None
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"checkpoint {path} holds one {type(tree).__name__}, not tensors by name")
    return tree


def read_safetensors(path: Path) -> Mapping[str, Any]:
    """The tensors of a .safetensors file, mapped."""
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"checkpoint {path} is truncated or no safetensors file: {error}") from None


def read_pickle(path: Path) -> Any:
    """The content of a PyTorch file, tensors and plain containers only; mapped if it is a zip, as since PyTorch 1.6."""
    with path.open("rb") as file:
        starts_as_zip = file.read(4) == b"PK\x03\x04"
    if starts_as_zip and not _is_whole_zip(path):
        raise CheckpointError(
            f"checkpoint {path} is truncated or damaged ({path.stat().st_size} bytes); fetch it again"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=starts_as_zip)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise CheckpointError(f"checkpoint {path} is no PyTorch file") from None
        what = f"it asks for {asked[1]}"
        raise CheckpointError(f"checkpoint {path} holds more than tensors ({what}) and was not loaded") from None
    except OSError:
        raise
    except Exception as error:  # there is no end to the ways in which damaged bytes can fail to be a pickle
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {path} is damaged or no PyTorch file: {reason}") from None


def _is_whole_zip(path: Path) -> bool:
    """Whether the directory at the end of a zip file is there."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it is there, and damaged
        return False


def state_dicts(tree: Mapping[str, Any]) -> list[State]:
    """Every state dict that a file may be said to hold: itself, and those inside it under the names that trainers use."""
    stripped = (strip_prefixes(level) for level in nested(tree))
    return [
        {name: value for name, value in level.items() if isinstance(name, str) and isinstance(value, Tensor)}
        for level in stripped
    ]


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


def some(names: Iterable[object]) -> str:
    """The first three names, and that there are more.

    >>> some(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    listed = [_printable(str(name)) for name in names]
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return (", ".join(listed[:3]) or "nothing") + more


def _printable(name: str) -> str:
    """A name as it can stand in a line: those of damaged files may hold anything."""
    return name if name.isprintable() and len(name) < 100 else f"{name[:100]!r}"
