"""From pairs of logits to bits."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinity.guidance import per_scale
from scalekv_adapters.sampling import choose, filter_logits
from scalekv_core.errors import InputError
from scalekv_core.models.sampling import Sampling


@frozen(kw_only=True)
class BitSampling:
    """How bits are sampled from their pairs of logits.

    Attributes:
        temperatures: per scale; divide the logits.
        top_k, top_p: filters over the two values of a bit; 0 lets both compete.
    """

    temperatures: tuple[float, ...]
    top_k: int
    top_p: float

    @classmethod
    def of(cls, *, temperature: float | Sequence[float], top_k: int, top_p: float, scales: int) -> BitSampling:
        """For so many scales; InputError if a value is out of its range."""
        Sampling(top_k=top_k, top_p=top_p)
        temperatures = per_scale("temperature", temperature, scales)
        if wrong := [t for t in temperatures if not 0 < t < inf]:
            raise InputError(f"Infinity needs temperatures above 0; got {wrong[0]}")
        return cls(temperatures=temperatures, top_k=top_k, top_p=top_p)

    def choose(self, logits: Tensor, scale: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        """Bits (B, n, d') bool of logits (B, n, 2d')."""
        pairs = (logits / self.temperatures[scale]).flatten(1).unflatten(1, (-1, 2))  # (B, n d', 2)
        chosen = choose(filter_logits(pairs, top_k=self.top_k, top_p=self.top_p), generators)
        return chosen.bool().view(*logits.shape[:2], -1)
