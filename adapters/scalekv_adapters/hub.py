"""Published files by name from the Hugging Face hub (extra ``hub``): its own cache, no second copy, nothing run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scalekv_core.errors import CheckpointError, MissingExtra, first_line, missing_extra


def fetched(repository: str, patterns: Sequence[str], *, otherwise: str) -> Path:
    """The folder of the hub's cache that holds these files of a repository, fetched where they are not there yet.

    Args:
        repository: such as "FoundationVision/Infinity".
        patterns: which of its files, as in a shell.
        otherwise: what a person without access to the hub can do, for the message.

    Raises:
        MissingExtra: huggingface_hub is not installed.
        CheckpointError: the hub cannot be reached, or refuses.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        lacking = missing_extra("huggingface_hub", "hub", f"fetching {repository} by name")
        raise MissingExtra(f"{lacking}; {otherwise}") from None
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's client raises its own errors, and those of whatever carries its requests
        reason = first_line(error).partition(". ")[0].rstrip(".")
        raise CheckpointError(
            f"{repository} cannot be fetched from the hub ({type(error).__name__}: {reason}); {otherwise}"
        ) from None
