"""Decoding in parts gives the same images, and no part is larger than one large image."""

from __future__ import annotations

import pytest
import torch

from scalekv_adapters.decoding import decode_in_parts


@pytest.mark.parametrize(("side", "stride", "parts"), [(64, 16, [1] * 5), (32, 16, [4, 1]), (16, 2, [5])])
def test_parts_are_as_large_as_a_large_image(side: int, stride: int, parts: list[int]) -> None:
    """The parts cover all images in order."""
    seen = []

    def decode(latents: torch.Tensor) -> torch.Tensor:
        seen.append(len(latents))
        return latents * 2

    latents = torch.arange(5.0).view(5, 1, 1, 1).expand(-1, 1, side, side)

    assert torch.equal(latents * 2, decode_in_parts(decode, latents, stride=stride))
    assert parts == seen
