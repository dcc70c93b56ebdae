"""Text features on disk, a file per prompt: a text encoder runs for a new prompt only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from attrs import frozen
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scalekv_core.errors import CheckpointError, InputError

CACHE = "SCALEKV_CACHE"
"""The environment variable that names the folder of everything that is kept from run to run."""


def cache_folder() -> Path:
    """Where features are kept unless told otherwise: ``$SCALEKV_CACHE/text``, by default in the user's cache folder.

    Raises:
        InputError: neither variable is set and the user has no home, as in many containers.
    """
    if named := os.environ.get(CACHE):
        return Path(named) / "text"
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise InputError(f"text features need a folder, and this user has no home; set ${CACHE} to a folder") from None
    return Path(home) / "scalekv" / "text"


@frozen
class KeptFeatures:
    """The features that one text encoder made.

    Attributes:
        cache: the folder of all encoders.
        encoder: what tells this one from others; names its folder.
        allow_nonfinite: accept features that hold NaN or infinity.
    """

    cache: Path
    encoder: str
    allow_nonfinite: bool = False

    def file_of(self, prompt: str) -> Path:
        """Where the features of a prompt are kept."""
        return self.cache / self.encoder / f"{hashlib.sha256(prompt.encode()).hexdigest()[:32]}.safetensors"

    def read(self, prompt: str) -> Tensor | None:
        """The features (L, C) of a prompt, None if they are not there; CheckpointError if they are damaged or not finite."""
        path = self.file_of(prompt)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                features = file.get_tensor("features") if file.metadata()["prompt"] == prompt else None
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise CheckpointError(f"stored text features {path} are damaged ({error}); delete that file") from None
        if features is not None and not self.is_usable(features):
            raise CheckpointError(f"stored text features {path} are not finite (NaN or infinity); delete that file")
        return features

    def is_usable(self, features: Tensor) -> bool:
        """Whether they are finite, or need not be."""
        return self.allow_nonfinite or bool(torch.isfinite(features).all())

    def write(self, prompt: str, features: Tensor, *, source: str) -> None:
        """Keeps the features (L, C) of a prompt, as a whole or not at all, with the name of where they are from."""
        path = self.file_of(prompt)
        with self.writing() as folder, tempfile.TemporaryDirectory(prefix=".scalekv-", dir=folder) as stage:
            made = Path(stage) / path.name
            save_file({"features": features.contiguous()}, made, metadata={"prompt": prompt, "t5": source})
            os.replace(made, path)

    def check_writable(self, size: int) -> None:
        """Raises InputError unless so many bytes can be written: to know it before an encoder runs for minutes."""
        with self.writing() as folder, tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(size))

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """The folder of the kept features, made if it is not there; InputError if it cannot be written to."""
        folder = self.cache / self.encoder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
        except OSError as error:
            raise InputError(
                f"text features cannot be stored in {self.cache} ({error.strerror}); set ${CACHE} to another folder"
            ) from None
