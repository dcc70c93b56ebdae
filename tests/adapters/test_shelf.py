"""The names that the adapters offer, which can be made without reading weights."""

from __future__ import annotations

import subprocess
import sys

import pytest
import safetensors
import torch

import scalekv_adapters
from scalekv_core import Registry

LOOK = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import scalekv_adapters
from scalekv_core import Registry
registry = Registry.of(scalekv_adapters)
for kind in ("adapter", "model"):
    for name in registry.names(kind):
        registry.make(kind, name)
print([file for file in opened if file.endswith((".safetensors", ".pth", ".pt"))])
"""


def test_the_shelf_offers_what_it_says(monkeypatch: pytest.MonkeyPatch):
    """Every name can be made without reading tensors, and no name is taken twice."""
    registry = Registry.of(scalekv_adapters)
    monkeypatch.setattr(safetensors, "safe_open", None)
    monkeypatch.setattr(torch, "load", None)
    assert {"var", "var-official"} <= set(registry.names("adapter"))
    assert {"var-tiny", "var-d16", "var-d20", "var-d24", "var-d30", "var-d36-512"} <= set(registry.names("model"))
    for name in registry.names("model"):
        card = registry.make("model", name)
        assert card.example
        assert card.summary


@pytest.mark.thorough
def test_importing_reads_no_weights():
    """Importing the package and making every adapter and card opens no weights."""
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()
