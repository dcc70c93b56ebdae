"""Stored keys or values: codes that carry the token axis, and ranges that do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from attrs import field, frozen
from torch import Tensor

from scalekv_core import ops

Kind = Literal["key", "value"]
KINDS: tuple[Kind, Kind] = ("key", "value")


@frozen(eq=False)
class Encoded:
    """What a codec made of one (B, H, N, D) tensor.

    Attributes:
        tokens: {name: (B, H, N, ...)} whatever belongs to a token; gathered when tokens are evicted.
        ranges: {name: tensor} whatever belongs to all tokens, such as a scale per channel.
    """

    tokens: dict[str, Tensor]
    ranges: dict[str, Tensor] = field(factory=dict)

    @property
    def length(self) -> int:
        """N."""
        return next(iter(self.tokens.values())).shape[2]

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that is held."""
        yield from self.tokens.values()
        yield from self.ranges.values()

    def gather(self, index: Tensor) -> Encoded:
        """The codes of the tokens at ``index`` (B, H, keep), copied out of the larger storage.

        Where these are of more rows than the index, it holds for each B rows (see :func:`scalekv_core.ops.flat_index`).
        """
        rows, _, tokens = next(iter(self.tokens.values())).shape[:3]
        flat, keep = ops.flat_index(index, rows, tokens), index.shape[2]
        return Encoded({name: ops.take_tokens(x, flat, keep) for name, x in self.tokens.items()}, self.ranges)

    def join(self, later: Encoded) -> Encoded:
        """These codes followed by later ones, which were encoded ``like`` these: their ranges hold for all."""
        joined = {name: torch.cat([x, later.tokens[name]], dim=2) for name, x in self.tokens.items()}
        return Encoded(joined, later.ranges)

    def owned(self, *foreign: Tensor) -> Encoded:
        """The same in memory of its own: copied where it is a view, or part of one of the foreign tensors.

        What a codec hands back unchanged would otherwise keep the model's tensors alive, or be overwritten.
        """
        theirs = {id(x.untyped_storage()) for x in foreign}

        def own(x: Tensor) -> Tensor:
            foreign_to_us = id(x.untyped_storage()) in theirs
            return x.clone(memory_format=torch.contiguous_format) if foreign_to_us else ops.tight(x)

        return Encoded(
            {name: own(x) for name, x in self.tokens.items()}, {name: own(x) for name, x in self.ranges.items()}
        )
