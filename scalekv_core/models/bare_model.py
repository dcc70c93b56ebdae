"""A model without a checkpoint: on torch's meta device to plan memory, with random weights to measure time.

Both need the steps of a real image and no trained weights. A model family runs its own loop here, so that no formulas
of what its layers allocate are needed: they would be wrong after the next change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.models.former_names import FormerNames
from scalekv_core.shapes.schedule import ScaleSchedule


class BareModel(FormerNames, ABC):
    """A model of given sizes, on a given device, that generates images without meaning.

    Attributes:
        schedule: the maps of one image.
        parts: {name: module}: every module that has weights and stays in memory while images are generated, the image
            decoder too. A text encoder is not among them.
        blocks: the transformer's layers, in order; each is called once a scale.
        projections: for each layer, the module whose input is projected to queries, keys and values, and the weights (3C, C)
            of that projection, or those of its parts one after the other. Only the bench needs them, for code that projects twice.
    """

    former_names: ClassVar[Mapping[str, str]] = {"draw": "generate"}

    schedule: ScaleSchedule
    parts: Mapping[str, nn.Module]
    blocks: Sequence[nn.Module]
    projections: Sequence[tuple[nn.Module, Tensor]]

    @abstractmethod
    def generate(self, images: int, cache: AttentionCache, *, guidance: bool = True) -> Generator[None, None, None]:
        """Generates a batch with the family's own loop, sampling included; yields after each scale.

        Between scales it holds what the family's loop holds.

        Args:
            images: how many.
            cache: what attention reads and writes; the caller closes it.
            guidance: two rows an image instead of one.
        """

    @abstractmethod
    def decode(self, images: int) -> Tensor:
        """(B, 3, H, W) what the image decoder makes of the sum of the maps."""
