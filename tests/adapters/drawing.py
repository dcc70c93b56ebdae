"""What the tests of every family's adapters draw and compare with."""

from __future__ import annotations

import torch


def same(first, second):
    """Whether all tensors are bit-equal."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def everything_in(model):
    """The attributes of every module, to compare by identity."""
    return [dict(vars(module)) for module in model.modules()]


def draw_until_block(drawer, error, block):
    """Draws, and is stopped at the third scale, before this block."""
    calls = []

    def stop(module, args, kwargs):
        calls.append(module)
        if len(calls) == 3:
            raise error

    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        drawer.draw()
    finally:
        handle.remove()
