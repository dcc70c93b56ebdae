"""What is slow once per process, done before any clock runs."""

from __future__ import annotations

import torch


def warm_up() -> None:
    """Imports what torch imports at its first tensor on the meta device (dynamo), and Hypothesis' own parts."""
    x = torch.zeros(1, 1, 2, 2, device="meta")
    x.norm(dim=-1), x.softmax(dim=-1), x.topk(1).indices, x.gather(3, x.long())
