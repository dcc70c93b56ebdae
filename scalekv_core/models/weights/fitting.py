"""Weights into a module that was built without memory of its own. Names, shapes and kinds of numbers must fit exactly."""

from __future__ import annotations

from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights.finite import check_finite
from scalekv_core.models.weights.format import WeightsFormat
from scalekv_core.models.weights.source import Weights
from scalekv_core.models.weights.states import State, some

Model = TypeVar("Model", bound=nn.Module)


def fill(
    model: Model,
    weights: Weights,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    allow_nonfinite: bool = False,
) -> Model:
    """The same model, its tensors replaced by those of the files, in evaluation mode.

    At no time more is held than the weights themselves and one shard. Where device and dtype are those of a file that
    can be mapped, the weights *are* the mapped file, and no byte is copied.

    Args:
        model: built on the meta device.
        weights: names and shapes exactly those of the model; the dtype may be another, integers stay what they are.
        device: where to keep the weights.
        dtype: in which; the format may keep some of them wider.
        allow_nonfinite: accept infinities and numbers that are none.

    Raises:
        CheckpointError: names are missing or not known, a shape or kind of number is another, or a number is not finite, in
            the file or in this dtype.
    """
    wanted = model.state_dict()
    check_fit(wanted, weights)
    derived = {name: value for name in wanted if (value := weights.format.derived(name, wanted[name])) is not None}
    for state in chain([derived], weights.shards()):
        kept = {name: _kept(name, value, weights.format, device, dtype) for name, value in state.items()}
        if not allow_nonfinite:
            check_finite(weights, kept, state)
        model.load_state_dict(kept, strict=False, assign=True)
    return model.eval()


def _kept(name: str, value: Tensor, format: WeightsFormat, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    return value.to(device, format.dtype(name, dtype) if value.is_floating_point() else None)


def check_fit(wanted: State, weights: Weights) -> None:
    """Raises CheckpointError unless both have the same names, but for what follows from the sizes, shapes, and kinds of
    numbers."""
    got, problems, derived = weights.shapes, [], weights.format.derived
    if missing := [name for name in wanted if name not in got and derived(name, wanted[name]) is None]:
        problems.append(f"{len(missing)} tensors are missing ({some(missing)})")
    if unknown := [name for name in got if name not in wanted]:
        problems.append(f"{len(unknown)} are not known ({some(unknown)})")
    both = [name for name in wanted if name in got]
    if others := [name for name in both if wanted[name].shape != got[name].shape]:
        shapes = f"{others[0]}: {tuple(got[others[0]].shape)} instead of {tuple(wanted[others[0]].shape)}"
        problems.append(f"{len(others)} have another shape ({shapes})")
    if others := [name for name in both if numbers_of(wanted[name].dtype) != numbers_of(got[name].dtype)]:
        dtypes = f"{others[0]}: {got[others[0]].dtype} instead of {wanted[others[0]].dtype}".replace("torch.", "")
        problems.append(f"{len(others)} hold another kind of number ({dtypes})")
    if problems:
        raise CheckpointError(f"checkpoint {weights.path} does not fit its model: {'; '.join(problems)}")


def numbers_of(dtype: torch.dtype) -> str:
    """The kind of number of a dtype; weights may come in another dtype of the same kind.

    >>> numbers_of(torch.float16) == numbers_of(torch.float8_e4m3fn), numbers_of(torch.int64) == numbers_of(torch.float32)
    (True, False)
    """
    return "complex" if dtype.is_complex else "real" if dtype.is_floating_point else "integer"


def numbered(state: State, prefix: str) -> int:
    """How many different numbers follow this prefix in the names of a state dict.

    >>> numbered({"blocks.0.a": torch.ones(1), "blocks.0.b": torch.ones(1), "blocks.1.a": torch.ones(1)}, "blocks.")
    2
    """
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})
