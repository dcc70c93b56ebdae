"""Weights into a module that was built without memory of its own. Names and shapes must fit exactly."""

from __future__ import annotations

from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights.files import State, some
from scalekv_core.models.weights.format import WeightsFormat
from scalekv_core.models.weights.source import Weights

Model = TypeVar("Model", bound=nn.Module)


def fill(model: Model, weights: Weights, *, device: torch.device | str, dtype: torch.dtype) -> Model:
    """The same model, its tensors replaced by those of the files, in evaluation mode.

    At no time more is held than the weights themselves and one shard. Where device and dtype are those of a file that
    can be mapped, the weights *are* the mapped file, and no byte is copied.

    Args:
        model: built on the meta device.
        weights: names and shapes exactly those of the model; the dtype may be another, integers stay what they are.
        device: where to keep the weights.
        dtype: in which; the format may keep some of them wider.

    Raises:
        CheckpointError: names are missing or not known, or a shape is another.
    """
    wanted = model.state_dict()
    check_fit(wanted, weights)
    derived = {name: value for name in wanted if (value := weights.format.derived(name, wanted[name])) is not None}
    for state in chain([derived], weights.shards()):
        kept = {name: _kept(name, value, weights.format, device, dtype) for name, value in state.items()}
        model.load_state_dict(kept, strict=False, assign=True)
    return model.eval()


def _kept(name: str, value: Tensor, format: WeightsFormat, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    return value.to(device, format.dtype(name, dtype) if value.is_floating_point() else None)


def check_fit(wanted: State, weights: Weights) -> None:
    """Raises CheckpointError unless both have the same names, but for what follows from the sizes, and the same shapes."""
    got, problems, derived = weights.shapes, [], weights.format.derived
    if missing := [name for name in wanted if name not in got and derived(name, wanted[name]) is None]:
        problems.append(f"{len(missing)} tensors are missing ({some(missing)})")
    if unknown := [name for name in got if name not in wanted]:
        problems.append(f"{len(unknown)} are not known ({some(unknown)})")
    if others := [name for name in wanted if name in got and wanted[name].shape != got[name].shape]:
        shapes = f"{others[0]}: {tuple(got[others[0]].shape)} instead of {tuple(wanted[others[0]].shape)}"
        problems.append(f"{len(others)} have another shape ({shapes})")
    if problems:
        raise CheckpointError(f"checkpoint {weights.path} does not fit its model: {'; '.join(problems)}")


def numbered(state: State, prefix: str) -> int:
    """How many different numbers follow this prefix in the names of a state dict.

    >>> numbered({"blocks.0.a": torch.ones(1), "blocks.0.b": torch.ones(1), "blocks.1.a": torch.ones(1)}, "blocks.")
    2
    """
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})
