"""Keys and values as eight-bit floating-point numbers (e4m3: four bits of exponent, three of mantissa)."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.encoded import Encoded, Kind
from scalekv_core.contracts.strategies import CacheCodec
from scalekv_core.errors import InputError

LARGEST = 448.0
"""The largest number in e4m3; the smallest step between two is 2^-9."""
SMALLEST = torch.finfo(torch.float32).smallest_normal
"""The smallest scale, so that numbers can be divided by it."""
DEVICES = ("cpu", "cuda", "meta")


@frozen
class Float8(CacheCodec):
    """One byte per number and one scale per head and map; the error is at most 1/15 of the number.

    A coarser step than `int8` for large numbers and a finer one for small ones; faster to decode. Codes are held as
    uint8, which every device can gather.
    """

    @property
    def kinds_alike(self) -> bool:
        return True

    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        if x.device.type not in DEVICES:
            raise InputError(
                f"codec 'fp8' needs float8 numbers, which PyTorch has on cpu and cuda; keys and values are on "
                f"{x.device.type}; take 'int8'"
            )
        largest = torch.linalg.vector_norm(x, ord=torch.inf, dim=(2, 3), keepdim=True, dtype=torch.float32)
        scale = largest.div_(LARGEST).clamp_min_(SMALLEST)
        codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
        for part, wide, place in ops.blocks(_at_once(x), x, scale, codes):
            place.copy_(part / wide)
        maps = 0 if like is None else like.ranges["scale"].shape[2]
        scales = scale if like is None else torch.cat([like.ranges["scale"], scale], dim=2)
        of_map = torch.full(x.shape[:3], maps, dtype=torch.uint8, device=x.device)
        return Encoded({"codes": codes.view(torch.uint8), "map": of_map}, {"scale": scales})

    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        parts = (stored.tokens["codes"], stored.ranges["scale"], stored.tokens["map"], out)
        for codes, scales, of_map, place in ops.blocks(_at_once(out), *parts):
            place.copy_(codes.view(torch.float8_e4m3fn).float().mul_(_of_tokens(scales, of_map)))

    def error_bound(self, stored: Encoded, kind: Kind) -> Tensor:
        """A sixteenth of the number that was encoded, so a fifteenth of the decoded one, or half the smallest step."""
        scale = _of_tokens(stored.ranges["scale"], stored.tokens["map"])
        number = stored.tokens["codes"].view(torch.float8_e4m3fn).float().abs() * scale
        return number * (1.001 / 15) + scale * 2.0**-10

    def nbytes(
        self, kind: Kind, *, rows: int, heads: int, tokens: int, maps: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return rows * heads * (tokens * (head_dim + 1) + torch.float32.itemsize * maps)


def _of_tokens(scales: Tensor, of_map: Tensor) -> Tensor:
    """(B, H, N, 1) the scale (B, H, maps, 1) of each token's map; (B, H, 1, 1) where there is only one map."""
    return scales if scales.shape[2] == 1 else scales.gather(2, of_map.long().unsqueeze(3))


def _at_once(x: Tensor) -> int:
    """How many heads to convert at a time, so that the float32 copies of a (B, H, N, D) tensor fit the chunk size."""
    return max(1, ops.default_chunk_bytes(x.device) // (8 * x.shape[2] * x.shape[3]))
