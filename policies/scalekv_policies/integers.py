"""Keys and values as small integers: ``int8`` and ``int4``, with ranges per channel and map, or per token.

Per channel is what VAR-Compressor found best for these models, for values too; keys per channel and values per token is
KIVI (Liu et al., ICML 2024, arXiv 2402.02750). Neither drops tokens. Here they come and go, so every map keeps the
ranges that it was encoded with: nothing is clipped, and nothing is encoded again because of what came later.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, in_
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.encoded import Encoded, Kind
from scalekv_core.contracts.strategies import CacheCodec
from scalekv_core.errors import InputError

Ranges = Literal["channel", "token"]
MAPS = 256
"""Maps that can be told apart by the one byte that every token stores if ranges are per channel."""


@frozen(kw_only=True)
class IntegerCodec(CacheCodec):
    """Stores a number as low + code x step; low and step have the dtype that attention reads.

    Each range's lowest number is exact, and a range of a single number has a step of 0: a map of one token loses nothing.

    Attributes:
        key_ranges, value_ranges: ``channel``: one range for each channel of each map; ``token``: one for each token.
        group: how many channels share a range of a token; 0 for all.
    """

    bits: ClassVar[int]

    key_ranges: Ranges = field(default="channel", validator=in_(("channel", "token")))
    value_ranges: Ranges = field(default="channel", validator=in_(("channel", "token")))
    group: int = field(default=0, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        if self.group and "token" not in (self.key_ranges, self.value_ranges):
            raise ValueError(
                f"'group' is for ranges per token, and keys and values have them per channel; got {self.group}"
            )

    @property
    def levels(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    @property
    def kinds_alike(self) -> bool:
        return self.key_ranges == self.value_ranges

    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        if self.per_token(kind):
            low, step = self._ranges(x.unflatten(3, (-1, self._share(x.shape[3]))), 4)
            low, step = low.squeeze(4), step.squeeze(4)
            return Encoded({"codes": self._codes(x, low, step), "low": low, "step": step})
        low, step = self._ranges(x, 2)
        earlier = [] if like is None else [like.ranges["low, step"]]
        ranges = torch.cat([*earlier, low, step], dim=2)
        of_map = torch.full(x.shape[:3], ranges.shape[2] // 2 - 1, dtype=torch.uint8, device=x.device)
        return Encoded({"codes": self._codes(x, low, step), "map": of_map}, {"low, step": ranges})

    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        codes = stored.tokens["codes"]
        if self.per_token(kind):
            ranges = [stored.tokens["low"], stored.tokens["step"]]
        else:
            ranges = [stored.ranges["low, step"], stored.tokens["map"]]
        for some, first, second, place in ops.blocks(_at_once(out), codes, *ranges, out):
            low, step = (first, second) if self.per_token(kind) else _of_tokens(first, second)
            if low.shape[3] not in (1, out.shape[3]):
                low, step = (x.repeat_interleave(self.group, dim=3) for x in (low, step))
            self._write(some, low, step, place)

    def _write(self, codes: Tensor, low: Tensor, step: Tensor, out: Tensor) -> None:
        """Writes low + code x step, computed in float32."""
        numbers = self._unpacked(codes, out.shape[3])
        if out.dtype == torch.float32:
            torch.mul(numbers, step, out=out).add_(low)
        else:
            out.copy_(numbers.float().mul_(step).add_(low))

    def error_bound(self, stored: Encoded, kind: Kind) -> Tensor:
        """Half a step, plus the rounding of float32 on the way."""
        low, step = (x.float() for x in self._ranges_of_tokens(stored, kind))
        bound = 0.501 * step + (low.abs() + self.levels * step) * 2.0**-22
        if not self.per_token(kind) or bound.shape[3] == 1:
            return bound
        width = stored.tokens["codes"].shape[3] * 8 // self.bits
        return bound.repeat_interleave(width // bound.shape[3], dim=3)

    def nbytes(
        self, kind: Kind, *, rows: int, heads: int, tokens: int, maps: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        if maps > MAPS:
            raise InputError(
                f"codec {type(self).__name__.lower()!r} tells {MAPS} maps apart; the schedule has {maps} before its last"
            )
        codes = tokens * -(-head_dim * self.bits // 8)
        if self.per_token(kind):
            return rows * heads * (codes + 2 * dtype.itemsize * tokens * head_dim // self._share(head_dim))
        return rows * heads * (codes + tokens + 2 * dtype.itemsize * maps * head_dim)

    def per_token(self, kind: Kind) -> bool:
        """Whether each token of this kind (key or value) has ranges of its own."""
        return (self.key_ranges if kind == "key" else self.value_ranges) == "token"

    def _share(self, head_dim: int) -> int:
        """How many channels of a token share a range."""
        if self.group and head_dim % self.group:
            raise InputError(
                f"codec {type(self).__name__.lower()!r} groups {self.group} channels, and heads of this model are {head_dim} wide; "
                "give a group that divides the width, or 0 for one range per token"
            )
        return self.group or head_dim

    def _ranges(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Lowest number and step along the axis, kept with size 1; steps are rounded up to include the highest number.

        A step is never 0, so that numbers can be divided by it; where all are alike it is too small to make a difference.
        """
        low, high = torch.aminmax(x, dim=dim, keepdim=True)
        info = torch.finfo(x.dtype)
        least = max(info.smallest_normal * info.eps, torch.finfo(torch.float32).smallest_normal)
        step = (high.float() - low.float()).div_(self.levels).mul_(1 + 2 * info.eps).add_(least)
        return low, step.to(x.dtype)

    def _codes(self, x: Tensor, low: Tensor, step: Tensor) -> Tensor:
        """(B, H, N, bytes) uint8 packed codes."""
        codes = torch.empty(*x.shape[:3], -(-x.shape[3] * self.bits // 8), dtype=torch.uint8, device=x.device)
        for part, least, wide, place in ops.blocks(_at_once(x), x, low, step, codes):
            shares = part.float().unflatten(3, (least.shape[3], -1))
            least, wide = least.float().unsqueeze(4), wide.float().unsqueeze(4)
            place.copy_(self._packed((shares - least).div_(wide).round_().flatten(3)))
        return codes

    def _packed(self, codes: Tensor) -> Tensor:
        """(B, H, N, D) float32 whole numbers below 256, unpacked from the codes."""
        return codes

    def _unpacked(self, codes: Tensor, width: int) -> Tensor:
        return codes

    def _ranges_of_tokens(self, stored: Encoded, kind: Kind) -> tuple[Tensor, Tensor]:
        """(B, H, N, D or groups) low and step of every token."""
        if self.per_token(kind):
            return stored.tokens["low"], stored.tokens["step"]
        return _of_tokens(stored.ranges["low, step"], stored.tokens["map"])


@frozen(kw_only=True)
class Int8(IntegerCodec):
    """Eight bits per number, ranges per channel and map; the error is at most 1/510 of the range."""

    bits: ClassVar[int] = 8


@frozen(kw_only=True)
class Int4(IntegerCodec):
    """Four bits per number, two in a byte, ranges per channel and map; the error is at most 1/30 of the range."""

    bits: ClassVar[int] = 4

    def _packed(self, codes: Tensor) -> Tensor:
        """(..., ceil(D / 2)): channel i and channel i + ceil(D / 2) share a byte."""
        half = -(-codes.shape[3] // 2)
        if codes.shape[3] % 2:
            codes = F.pad(codes, (0, 1))
        return torch.add(codes[..., :half], codes[..., half:], alpha=16)

    def _unpacked(self, codes: Tensor, width: int) -> Tensor:
        both = codes.new_empty(*codes.shape[:3], 2 * codes.shape[3])
        torch.bitwise_and(codes, 15, out=both[..., : codes.shape[3]])
        torch.bitwise_right_shift(codes, 4, out=both[..., codes.shape[3] :])
        return both[..., :width]


def _of_tokens(ranges: Tensor, of_map: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H, N, D) low and step of each token's map; (B, H, 1, D) where there is only one map.

    Args:
        ranges: (B, H, 2 maps, D) low and step of each map in turn.
        of_map: (B, H, N) uint8.
    """
    maps = ranges.unflatten(2, (-1, 2)).flatten(3)
    if maps.shape[2] == 1:
        chosen = maps
    elif maps.device.type == "cpu":
        chosen = ops.gather_tokens(maps, of_map.long())
    else:  # fewer launches; on a CPU several times slower
        chosen = maps.gather(2, of_map.long().unsqueeze(3).expand(*of_map.shape, maps.shape[3]))
    low, step = chosen.unflatten(3, (2, -1)).unbind(3)
    return low, step


def _at_once(x: Tensor) -> int:
    """How many heads to convert at a time, so that the float32 copies of a (B, H, N, D) tensor fit the chunk size."""
    return max(1, ops.default_chunk_bytes(x.device) // (16 * x.shape[2] * x.shape[3]))
