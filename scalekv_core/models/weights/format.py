"""What a family of models says about its weights files, so that they can be read and converted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
from torch import Tensor


class WeightsFormat:
    """One kind of network as it is stored in files. A value: a frozen attrs class without state.

    Attributes:
        kind: its name in messages, such as "VAR".
        marker: a tensor that every such network has, and no other.
        stays_as_it_is: ``scalekv convert --dtype`` does not change its numbers: it is small, and runs in float32.
        masks: tensors that hold infinities; in all others a number that is not finite is an error.
    """

    kind: ClassVar[str]
    marker: ClassVar[str]
    stays_as_it_is: ClassVar[bool] = False
    masks: ClassVar[Collection[str]] = ()

    def knows(self, names: Collection[str]) -> bool:
        """Whether these are the weights of such a network.

        Args:
            names: of the tensors in a file, without the prefixes of trainers and wrappers.
        """
        return self.marker in names

    def normal(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        """The tensor under the name and in the shape that the module has; nothing for one that is not needed.

        Args:
            name, value: as they are in the file. The value may be on the meta device, which has only its shape.
        """
        return {name: value}

    def derived(self, name: str, like: Tensor) -> Tensor | None:
        """The value of a tensor that follows from the sizes, so that a file may lack it; None if it does not.

        Args:
            name: in the module.
            like: on the meta device, of its shape.
        """
        return None

    def dtype(self, name: str, wanted: torch.dtype) -> torch.dtype:
        """The dtype of a floating-point tensor in a network that is loaded in the wanted dtype."""
        return wanted
