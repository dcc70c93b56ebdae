"""What every family refuses before it generates: forced tokens that do not fit, parts on two devices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scalekv_core.errors import InputError
from scalekv_core.shapes.schedule import ScaleSchedule


def check_forced_codes(forced: Sequence[Tensor], images: int, schedule: ScaleSchedule, codes: int) -> None:
    """Raises InputError unless each map is of integers (B, n) from 0 to codes - 1, and there are no more than scales."""
    _check_number("tokens", forced, schedule)
    for scale, (tokens, count) in enumerate(zip(forced, schedule.tokens, strict=False)):
        fits = not (tokens.is_floating_point() or tokens.dtype == torch.bool)
        _check_map("tokens", scale, tokens, "integers", (images, count), fits=fits)
        if tokens.min() < 0 or tokens.max() >= codes:
            got = f"{tokens.min()} to {tokens.max()}"
            raise InputError(f"generate needs forced tokens from 0 to {codes - 1}, got {got} at scale {scale}")


def check_forced_bits(forced: Sequence[Tensor], images: int, schedule: ScaleSchedule, bits: int) -> None:
    """Raises InputError unless each map is of bool (B, n, bits), and there are no more than scales."""
    _check_number("bits", forced, schedule)
    for scale, (tokens, count) in enumerate(zip(forced, schedule.tokens, strict=False)):
        _check_map("bits", scale, tokens, "bool", (images, count, bits), fits=tokens.dtype == torch.bool)


def _check_number(what: str, forced: Sequence[Tensor], schedule: ScaleSchedule) -> None:
    if len(forced) > len(schedule):
        raise InputError(f"generate needs forced {what} of at most {len(schedule)} scales, got {len(forced)}")


def _check_map(what: str, scale: int, tokens: Tensor, kind: str, shape: tuple[int, ...], *, fits: bool) -> None:
    if tuple(tokens.shape) != shape or not fits:
        got = f"{tokens.dtype} {tuple(tokens.shape)}"
        raise InputError(f"generate needs forced {what} of scale {scale} to be {kind} {shape}, got {got}")


def check_same_device(transformer: str, device: torch.device, decoder: str, other: torch.device) -> None:
    """Raises InputError if a transformer and its image decoder are on two devices.

    >>> check_same_device("VAR", torch.device("cuda"), "VQVAE", torch.device("cpu"))
    Traceback (most recent call last):
    scalekv_core.errors.InputError: the VAR is on cuda and its VQVAE on cpu; move one of them with .to()
    """
    if device != other:
        raise InputError(f"the {transformer} is on {device} and its {decoder} on {other}; move one of them with .to()")
