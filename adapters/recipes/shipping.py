"""Writing trained weights as they ship: float16, without derived buffers, with the sizes of the network in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from scalekv_adapters.shipped import is_stored


def write_shipped(path: Path, sizes: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Writes a file that :func:`scalekv_adapters.shipped.read_shipped` reads."""
    stored = {name: value.half().contiguous() for name, value in weights.items() if is_stored(name)}
    save_file(stored, path, metadata={"config": json.dumps(sizes)})
    path.chmod(0o644)
