"""Files by name from the hub: cached ones need no network, and otherwise the error says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from scalekv_adapters.hub import fetched
from scalekv_core.errors import CheckpointError, MissingExtra

REPOSITORY, COMMIT = "someone/some-model", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's client without a network, and its cache folder."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def keep(cache: Path, name: str) -> Path:
    """Puts a file into the hub's cache as its client does."""
    folder = cache / f"models--{REPOSITORY.replace('/', '--')}"
    file = folder / "snapshots" / COMMIT / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("weights")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return file


def test_what_was_fetched_before_needs_no_network(offline: Path) -> None:
    """The returned folder is the cache's own, not a copy."""
    file = keep(offline, "model.pth")

    assert file.parent == fetched(REPOSITORY, ["model.pth"], otherwise="")


def test_without_a_network_the_message_says_what_to_do() -> None:
    """One line names what could not be fetched, why, and the alternative."""
    with pytest.raises(CheckpointError) as error:
        fetched(REPOSITORY, ["model.pth"], otherwise="put model.pth into a folder and name it with --weights")
    message = str(error.value)
    assert message.startswith(f"{REPOSITORY} cannot be fetched from the hub (")
    assert message.endswith("); put model.pth into a folder and name it with --weights")
    assert "\n" not in message


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the extra."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(MissingExtra, match=r"needs huggingface_hub, .*; run: pip install 'scalekv\[hub\]'; or walk$"):
        fetched(REPOSITORY, ["model.pth"], otherwise="or walk")
