"""Weights into a module that was built without memory of its own. Names and shapes must fit exactly."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from scalekv_core.errors import CheckpointError
from scalekv_core.weights.files import State, some
from scalekv_core.weights.source import Weights

Model = TypeVar("Model", bound=nn.Module)


def fill(model: Model, weights: Weights, *, device: torch.device | str, dtype: torch.dtype) -> Model:
    """The same model, its tensors replaced by those of the files, in evaluation mode.

    At no time more is held than the weights themselves and one shard. Where device and dtype are those of a file that
    can be mapped, the weights *are* the mapped file, and no byte is copied.

    Args:
        model: built on the meta device.
        weights: names and shapes exactly those of the model; the dtype may be another, integers stay what they are.
        device, dtype: where and how to keep the weights.

    Raises:
        CheckpointError: names are missing or not known, or a shape is another.
    """
    check_fit(model.state_dict(), weights)
    for shard in weights.shards():
        cast = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in shard.items()}
        model.load_state_dict(cast, strict=False, assign=True)
    return model.eval()


def check_fit(wanted: State, weights: Weights) -> None:
    """Raises CheckpointError unless both have the same names and shapes."""
    got, problems = weights.shapes, []
    if missing := [name for name in wanted if name not in got]:
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
