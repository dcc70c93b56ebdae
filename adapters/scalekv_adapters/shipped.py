"""Weights that ship with scalekv: float16 in safetensors, with the sizes of the network as JSON in the header."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from safetensors import safe_open
from torch import Tensor, nn

from scalekv_core.errors import InputError

Module = TypeVar("Module", bound=nn.Module)

DERIVED = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias", "mask")
"""Buffers that follow from the sizes; they would be a sixth of var-tiny."""


def is_stored(name: str) -> bool:
    """Whether a tensor of a state dict is in the file: all but the derived buffers are."""
    return name.rpartition(".")[2] not in DERIVED


def shipped(package: str, name: str, make: Callable[[dict[str, Any]], Module]) -> Module:
    """A network that ships, in evaluation mode and without gradients.

    Args:
        package: with the file ``<name>.safetensors``.
        name: of the file.
        make: builds the network of these sizes.

    Raises:
        InputError: the weights are those of another network.
    """
    sizes, weights = read_shipped(package, name)
    module = make(sizes)
    fill_shipped(module, weights)
    return module


def read_shipped(package: str, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(sizes, tensors) of the file ``<name>.safetensors`` in a package."""
    source = importlib.resources.files(package) / f"{name}.safetensors"
    with importlib.resources.as_file(source) as path, safe_open(path, framework="pt") as file:
        sizes: dict[str, Any] = json.loads(file.metadata()["config"])
        return sizes, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)


def fill_shipped(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies stored weights into a module, in the module's own dtype; then it is in evaluation mode, without gradients.

    Raises:
        InputError: the weights are those of another network.
    """
    missing, unknown = module.load_state_dict(weights, strict=False)
    if unknown or any(is_stored(name) for name in missing):
        raise InputError(
            f"the shipped weights do not fit {type(module).__name__}: missing {missing}, unknown {unknown}"
        )
    module.eval().requires_grad_(False)
