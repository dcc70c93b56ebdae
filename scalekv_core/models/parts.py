"""The parts of an image model that can take turns on a device: none of them is needed while another one runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

TEXT_ENCODER, TRANSFORMER, DECODER = "text encoder", "transformer", "decoder"

Parts = Mapping[str, Sequence[nn.Module]]
"""{part: its modules}. What every scale needs belongs to the transformer: codebooks, the embedding of the next map."""
