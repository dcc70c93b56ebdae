"""Queries, keys and values: how large and how similar they are, and their layout in memory."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CONTENTS = ("ordinary", "tied", "equal", "repeated", "huge", "denormal", "zero")
LAYOUTS = ("plain", "permuted", "sliced")
LARGEST_LOGIT = 1e4
"""The size of logits up to which attention works in float16: dot products stay finite."""


def numbers(shape: tuple[int, ...], content: str, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """(..., N, D) numbers of this kind.

    ``ordinary``: normal. ``tied``: tokens differ in the third digit. ``equal``: all tokens are one. ``repeated``: each is
    one of two. ``huge``: dot products near :data:`LARGEST_LOGIT`. ``denormal``: below the smallest normal number. ``zero``.
    """
    *outer, tokens, width = shape
    x = torch.randn(shape, generator=generator)
    one = torch.randn(*outer, 1, width, generator=generator)
    if content == "tied":
        x = one + 1e-3 * x
    elif content == "equal":
        x = one.expand(shape).clone()
    elif content == "repeated":
        first = torch.rand(*outer, tokens, 1, generator=generator) < 0.5
        x = torch.where(first, one, -one)
    elif content == "huge":
        x = x.clamp(-2, 2) * (LARGEST_LOGIT**0.5 / (2 * width**0.25))
    elif content == "denormal":
        x = x * (torch.finfo(dtype).tiny / 8)
    elif content == "zero":
        x = torch.zeros_like(x)
    return x.to(dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same (B, H, N, D) numbers, in a layout that a model's tensors have.

    ``plain``: contiguous. ``permuted``: (B, N, H, D) transposed, as a projection gives them. ``sliced``: a part of a larger
    buffer, as the cache's scratch and a joint projection give them.
    """
    B, H, N, D = x.shape
    if layout == "permuted":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "sliced":
        buffer = x.new_zeros(B, H, N + 3, 2 * D)
        buffer[:, :, :N, :D] = x
        return buffer[:, :, :N, :D]
    return x.contiguous()
