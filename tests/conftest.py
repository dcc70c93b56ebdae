"""How the suite runs: with one torch thread, no network, and a Hypothesis profile by name.

Few examples by default (`dev`), many in `make test-all` (`thorough`), the same cases every time for mutants (`same`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

# Nothing is fetched, and nothing that somebody has fetched is found; read when the hub's client is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = str(Path(tempfile.gettempdir()) / "scalekv-tests-fetch-nothing")

# A plugin that is found as a distribution is imported by the tests of the registry alone.
collect_ignore = ["plugins/scalekv_lottery.py"]

# A deadline would measure torch's first call; slow data generation is only slow on a busy machine.
_COMMON = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],
    "database": DirectoryBasedExampleDatabase(".hypothesis/examples"),
}
settings.register_profile("dev", max_examples=10, stateful_step_count=15, **_COMMON)
settings.register_profile("thorough", max_examples=60, stateful_step_count=30, **_COMMON)
settings.register_profile(
    "same", max_examples=20, stateful_step_count=20, derandomize=True, **_COMMON | {"database": None}
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

torch.set_num_threads(1)
