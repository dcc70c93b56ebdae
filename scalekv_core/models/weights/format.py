"""What a family of models says about its weights files: all that reading and converting them needs to know of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
from torch import Tensor


class WeightsFormat:
    """One kind of network as it lies in files. A value: a frozen attrs class without state.

    Attributes:
        kind: what such a network is called in messages, such as "VAR".
        marker: a tensor that every such network has, and no other.
        stays_as_it_is: whether ``scalekv convert --dtype`` leaves its numbers alone: it is small, and runs in float32.
    """

    kind: ClassVar[str]
    marker: ClassVar[str]
    stays_as_it_is: ClassVar[bool] = False

    def knows(self, names: Collection[str]) -> bool:
        """Whether these are the weights of such a network.

        Args:
            names: of the tensors in a file, without what trainers and wrappers put around them.
        """
        return self.marker in names

    def normal(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        """The tensor under the name, and in the shape, that the module has; nothing for one that is not needed.

        Args:
            name, value: as they lie in the file. The value may be on the meta device: only its shape is there then.
        """
        return {name: value}

    def derived(self, name: str, like: Tensor) -> Tensor | None:
        """The value of a tensor that follows from the sizes, so that no file need have it; None if it does not.

        Args:
            name: in the module.
            like: on the meta device, of its shape.
        """
        return None

    def dtype(self, name: str, wanted: torch.dtype) -> torch.dtype:
        """The dtype that a tensor of numbers has in a network that is wanted in a dtype."""
        return wanted
