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
"""How many maps the byte can tell apart that every token with ranges per channel carries."""


@frozen(kw_only=True)
class IntegerCodec(CacheCodec):
    """A number is low + code x step; low and step in the dtype that attention reads.

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

    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        if self.per_token(kind):
            low, step = self._ranges(x.unflatten(3, (-1, self._share(x.shape[3]))), 4)
            low, step = low.squeeze(4), step.squeeze(4)
            return Encoded({"codes": self._codes(x, low, step), "low": low, "step": step})
        low, step = self._ranges(x, 2)
        codes, maps = self._codes(x, low, step), 0
        if like is not None:
            maps = like.ranges["low"].shape[2]
            low, step = torch.cat([like.ranges["low"], low], dim=2), torch.cat([like.ranges["step"], step], dim=2)
        of_map = torch.full(x.shape[:3], maps, dtype=torch.uint8, device=x.device)
        return Encoded({"codes": codes, "map": of_map}, {"low": low, "step": step})

    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        ranges = stored.tokens if self.per_token(kind) else stored.ranges
        of_map = stored.tokens.get("map", stored.tokens["codes"])  # of tokens with ranges of their own nothing is asked
        parts = (stored.tokens["codes"], ranges["low"], ranges["step"], of_map, out)
        for codes, low, step, which, place in ops.blocks(_at_once(out), *parts):
            if not self.per_token(kind):
                low, step = _of_tokens(low, which), _of_tokens(step, which)
            numbers = self._unpacked(codes, out.shape[3]).float().unflatten(3, (low.shape[3], -1))
            place.copy_(numbers.mul_(step.unsqueeze(4)).add_(low.unsqueeze(4)).flatten(3))

    def error_bound(self, stored: Encoded, kind: Kind) -> Tensor:
        """Half a step, and what float32 rounds off on the way."""
        low, step = self._ranges_of_tokens(stored, kind)
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
        """Whether tokens of this kind have ranges of their own."""
        return (self.key_ranges if kind == "key" else self.value_ranges) == "token"

    def _share(self, head_dim: int) -> int:
        """How many channels share a range of a token."""
        if self.group and head_dim % self.group:
            raise InputError(
                f"codec {type(self).__name__.lower()!r} groups {self.group} channels, and heads of this model are {head_dim} wide; "
                "give a group that divides the width, or 0 for one range per token"
            )
        return self.group or head_dim

    def _ranges(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Lowest number and step along the axis, which is kept; the step rounded up, so that the highest fits in."""
        low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
        info = torch.finfo(x.dtype)
        step = (high.float() - low.float()) / self.levels
        up = step * (1 + 2 * info.eps) + info.smallest_normal * info.eps
        return low, torch.where(step > 0, up, 0.0).to(x.dtype)

    def _codes(self, x: Tensor, low: Tensor, step: Tensor) -> Tensor:
        """(B, H, N, bytes) uint8."""
        codes = torch.empty(*x.shape[:3], -(-x.shape[3] * self.bits // 8), dtype=torch.uint8, device=x.device)
        for part, least, wide, place in ops.blocks(_at_once(x), x, low, step, codes):
            shares = part.float().unflatten(3, (least.shape[3], -1))
            least, wide = least.float().unsqueeze(4), wide.float().unsqueeze(4)
            place.copy_(self._packed(((shares - least) / (wide + (wide == 0))).round_().flatten(3).to(torch.uint8)))
        return codes

    def _packed(self, codes: Tensor) -> Tensor:
        return codes

    def _unpacked(self, codes: Tensor, width: int) -> Tensor:
        return codes

    def _ranges_of_tokens(self, stored: Encoded, kind: Kind) -> tuple[Tensor, Tensor]:
        """(B, H, N, D or groups) float32 low and step of every token."""
        if self.per_token(kind):
            return stored.tokens["low"].float(), stored.tokens["step"].float()
        which = stored.tokens["map"]
        return _of_tokens(stored.ranges["low"], which).float(), _of_tokens(stored.ranges["step"], which).float()


@frozen(kw_only=True)
class Int8(IntegerCodec):
    """Eight bits a number, ranges per channel and map: off by 1/510 of the range at most."""

    bits: ClassVar[int] = 8


@frozen(kw_only=True)
class Int4(IntegerCodec):
    """Four bits a number, two in a byte, ranges per channel and map: off by 1/30 of the range at most."""

    bits: ClassVar[int] = 4

    def _packed(self, codes: Tensor) -> Tensor:
        """(..., ceil(D / 2)): channel i and channel i + ceil(D / 2) share a byte."""
        half = -(-codes.shape[3] // 2)
        return codes[..., :half] | F.pad(codes[..., half:] << 4, (0, 2 * half - codes.shape[3]))

    def _unpacked(self, codes: Tensor, width: int) -> Tensor:
        return torch.cat([codes & 15, codes >> 4], dim=3)[..., :width]


def _of_tokens(ranges: Tensor, of_map: Tensor) -> Tensor:
    """(B, H, N, D) the ranges (B, H, maps, D) of the map that each token is of; (B, H, 1, D) where there is but one."""
    return ranges if ranges.shape[2] == 1 else ops.gather_tokens(ranges, of_map.long())


def _at_once(x: Tensor) -> int:
    """How many heads at a time keep the float32 copies of a (B, H, N, D) tensor within the chunk size."""
    return max(1, ops.default_chunk_bytes(x.device) // (16 * x.shape[2] * x.shape[3]))
