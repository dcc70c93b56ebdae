"""The device of these tests: the first CUDA device, or the CPU where there is none or SCALEKV_TEST_DEVICE says so.

On a CPU the same code runs, so that it is known to run before a GPU is paid for; what only a GPU can show is skipped there.
"""

from __future__ import annotations

import os

import pytest
import torch

CUDA = torch.cuda.is_available()
DEVICE = torch.device(os.environ.get("SCALEKV_TEST_DEVICE", "cuda" if CUDA else "cpu"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is marked."""
    for item in items:
        if "tests/gpu" in item.path.as_posix():
            item.add_marker(pytest.mark.cuda)


@pytest.fixture(scope="session")
def device() -> torch.device:
    return DEVICE


@pytest.fixture(scope="session")
def gpu(device: torch.device) -> torch.device:
    """The device, for tests that only a GPU can run."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device
