"""Cases for codecs: the keys or values of two maps."""

from __future__ import annotations

from typing import Literal

import torch
from attrs import field, frozen
from attrs.validators import in_
from torch import Tensor

from scalekv_core.testing.cases.base import Case
from scalekv_core.testing.cases.numbers import CONTENTS, DTYPES, LAYOUTS, laid_out, numbers


@frozen(kw_only=True, repr=False)
class CodecCase(Case):
    """Keys or values to encode, and a second map that joins them later.

    Attributes:
        tokens, later: of the two maps.
        kind: ``key`` or ``value``.
        content, layout: of the numbers.
    """

    tokens: int = 1
    later: int = 1
    rows: int = 1
    heads: int = 1
    width: int = 1
    kind: Literal["key", "value"] = "key"
    dtype: str = field(default="float32", validator=in_(DTYPES))
    content: str = field(default="ordinary", validator=in_(CONTENTS))
    layout: str = field(default="sliced", validator=in_(LAYOUTS))
    seed: int = 0
    device: str = "cpu"

    def maps(self) -> tuple[Tensor, Tensor]:
        """(B, H, n, D) of both maps."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.rows, self.heads, self.tokens + self.later, self.width)
        both = numbers(shape, self.content, DTYPES[self.dtype], generator).to(self.device)
        return laid_out(both[:, :, : self.tokens], self.layout), laid_out(both[:, :, self.tokens :], self.layout)

    def __repr__(self) -> str:
        return f"CodecCase.parse({str(self)!r})"
