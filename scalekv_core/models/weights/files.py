"""One weights file, read as data: nothing that it asks for is run, and nothing is copied where it can be mapped.

All that can be wrong with a file ends in a `CheckpointError` of one line.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights.pickles import Forbidden, check_archive, check_old_file

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""What weights files end with."""
LFS_POINTER = b"version https://git-lfs.github.com/"


def read_file(path: Path) -> Mapping[str, Any]:
    """What a .safetensors or PyTorch file holds, on the CPU.

    Raises:
        CheckpointError: there is no such file, it cannot be read, is truncated or of another format, or it holds more than
            tensors.
    """
    with readable(path):
        if not is_file(path):
            raise CheckpointError(f"there is no checkpoint {path}")
        _check_beginning(path)
        tree = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"checkpoint {path} holds one {type(tree).__name__}, not tensors by name")
    return tree


def is_file(path: Path) -> bool:
    """Whether it is a file; raises OSError where the system does not say, which `Path.is_file` hides in some versions."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether it is a folder; raises OSError where the system does not say."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a name with a zero byte
        return 0


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """A block that reads this file or folder: what the system refuses is a CheckpointError."""
    try:
        yield
    except OSError as error:
        name = path if len(path.name) <= 100 else f"{str(path)[:100]}..."
        raise CheckpointError(f"checkpoint {name} cannot be read: {error.strerror or error}") from None


def read_safetensors(path: Path) -> Mapping[str, Any]:
    """The tensors of a .safetensors file, mapped."""
    try:
        return safetensors.torch.load_file(path)
    except OSError:
        raise
    except Exception as error:  # the library's own, and those of torch at the sight of strange dtypes and shapes
        reason = " ".join(str(error).split())[:200]  # it may repeat names from the file
        raise CheckpointError(f"checkpoint {path} is truncated or no safetensors file: {reason}") from None


def read_pickle(path: Path) -> Any:
    """The content of a PyTorch file, tensors and plain containers only; mapped if it is a zip, as since PyTorch 1.6."""
    with path.open("rb") as file:
        starts_as_zip = file.read(4) == b"PK\x03\x04"
    if starts_as_zip and not _is_whole_zip(path):
        raise CheckpointError(f"checkpoint {path} is truncated or damaged ({_size(path)} bytes); fetch it again")
    try:
        check_archive(path) if starts_as_zip else check_old_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=starts_as_zip)
    except Forbidden as error:
        raise CheckpointError(f"checkpoint {path} was not loaded: {error}") from None
    except OSError:
        raise
    except Exception:  # damaged bytes fail in any way, and torch advises to run what is in them
        raise CheckpointError(f"checkpoint {path} is damaged or no PyTorch file ({_size(path)} bytes)") from None


def _check_beginning(path: Path) -> None:
    """Refuses what lies in the place of a file that was never fetched."""
    with path.open("rb") as file:
        beginning = file.read(len(LFS_POINTER))
    if not beginning:
        raise CheckpointError(f"checkpoint {path} is empty; fetch it again")
    if beginning == LFS_POINTER:
        raise CheckpointError(
            f"checkpoint {path} is a Git LFS pointer, not the file itself; run 'git lfs pull' in its repository"
        )


def _is_whole_zip(path: Path) -> bool:
    """Whether the directory at the end of a zip file is there."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it is there, and damaged
        return False


def _size(path: Path) -> int:
    return path.stat().st_size
