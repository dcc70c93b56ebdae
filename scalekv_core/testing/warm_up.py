"""What is slow once per process, done before any clock runs."""

from __future__ import annotations

import torch

from scalekv_core.memory.meter import StorageTracker


def warm_up() -> None:
    """Imports what torch imports at its first tensors on the meta device and under modes: dynamo, distributed tensors."""
    x = torch.zeros(1, 1, 2, 2, device="meta")
    with torch.random.fork_rng(devices=[]), StorageTracker():
        scores = (x @ x.transpose(2, 3)).softmax(dim=-1).norm(dim=-1)
        scores.topk(1).indices, x.gather(3, x.long()), x.argmin(dim=3), torch.rand(2, device="meta")
