"""What a person asks of a model, checked once for all models: prompts, seeds, dtype and device."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from scalekv_core.errors import InputError, first_line, shortened, unknown_name

Seeds = Sequence[int | torch.Generator] | torch.Generator
"""One seed per image, or a generator in place of one or of all."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
"""The dtypes that models run in, by name."""

SEEDS = 2**64
"""Seeds are below this."""


def check_prompts(model: str, prompts: Sequence[str]) -> list[str]:
    """The prompts as a list.

    Raises:
        InputError: they are one text instead of a list of texts, none at all, or one is no text.
    """
    who = f"model {model!r}"
    if isinstance(prompts, (str, bytes)):
        raise InputError(f"{who} needs a list of prompts, one per image; got one text: write [{shortened(prompts)}]")
    try:
        listed = list(prompts)
    except TypeError:
        raise InputError(f"{who} needs a list of prompts, one per image; got {shortened(prompts)}") from None
    if not listed:
        raise InputError(f"{who} needs at least one prompt; got none")
    for number, prompt in enumerate(listed, start=1):
        which = f"prompt {number} of {len(listed)}"
        if not isinstance(prompt, str):
            raise InputError(f"{who}: {which} is {shortened(prompt)}, no text; write {str(prompt)[:40]!r}")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{who}: {which} is not valid text at character {error.start + 1}") from None
    return listed


def check_seeds(seeds: Seeds, images: int, *, who: str) -> list[int]:
    """One seed per image, each a whole number from 0 to 2**64 - 1.

    Args:
        seeds: numbers; a generator in place of one is asked for its next number, one in place of all for as many as there
            are images.
        images: how many.
        who: asks for them, for the message.

    Raises:
        InputError: not one per image, or one is no such number.

    >>> check_seeds([3, 4], 2, who="model 'toy'")
    [3, 4]
    """
    if isinstance(seeds, torch.Generator):
        seeds = [seeds] * images
    try:
        listed = list(seeds)
    except TypeError:
        raise InputError(f"{who} needs one seed per image, {images} in a list; got {shortened(seeds)}") from None
    if len(listed) != images:
        raise InputError(f"{who} needs one seed per image: {images} images, got {len(listed)} seeds")
    return [_seed(seed, who) for seed in listed]


def _seed(seed: Any, who: str) -> int:
    if isinstance(seed, torch.Generator):
        return int(torch.randint(2**63 - 1, (), generator=seed, device=seed.device))
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or not 0 <= number < SEEDS:
        raise InputError(f"{who} needs seeds that are whole numbers from 0 to 2**64 - 1; got {shortened(seed)}")
    return number


def read_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype of this name, or the same dtype.

    Raises:
        UnknownName: models do not run in it.

    >>> read_dtype("float16"), read_dtype("torch.bfloat16")
    (torch.float16, torch.bfloat16)
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise unknown_name("dtype", name[:40], DTYPES)
    return DTYPES[name]


def read_device(device: str | torch.device) -> torch.device:
    """The device of this name, or the same device.

    Raises:
        InputError: there is no such device here, or it holds no numbers (``meta``).
    """
    here = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
        TypeError,
    ) as error:  # what torch raises differs by device
        reason = first_line(error).split(". ")[0]
        raise InputError(f"device {shortened(str(device))} cannot be used ({reason}); there is {here}") from error
    if found.type == "cpu" and found.index:
        raise InputError(f"device {str(found)!r} is not there: a CPU has no number; write cpu")
    if found.type == "meta":
        raise InputError(
            f"device 'meta' holds no numbers, so nothing can be generated on it; there is {here} (scalekv plan does dry runs)"
        )
    return found
