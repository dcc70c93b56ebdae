"""A model whose weights mean nothing: on torch's meta device for planning, with random numbers for measuring time.

Both want the steps of a real image and no checkpoint. So a model family says once how its own loop runs without one, and
nobody writes formulas of what its layers allocate: they would be wrong after the next change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence

from torch import Tensor, nn

from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.shapes.schedule import ScaleSchedule


class BareModel(ABC):
    """A model of given sizes, on a given device, that can draw and has nothing to say.

    Attributes:
        schedule: the maps of one image.
        parts: {name: module}: whatever has weights and is there while images are drawn, the image decoder too. A text
            encoder is not among them.
        blocks: the transformer's layers, in order; each is called once a scale.
        projections: of each layer, the module whose input is projected to queries, keys and values, and the weights (3C, C)
            that do it. Only the bench wants them, for code that projects twice.
    """

    schedule: ScaleSchedule
    parts: Mapping[str, nn.Module]
    blocks: Sequence[nn.Module]
    projections: Sequence[tuple[nn.Module, Tensor]]

    @abstractmethod
    def draw(self, images: int, cache: AttentionCache, *, guidance: bool = True) -> Generator[None, None, None]:
        """Draws a batch with the family's own loop, sampling and all; yields after each scale, keeping what it keeps.

        Args:
            images: how many.
            cache: what attention talks to; closing it is the caller's business.
            guidance: two rows an image instead of one.
        """

    @abstractmethod
    def decode(self, images: int) -> Tensor:
        """(B, 3, H, W) what the image decoder makes of the sum of the maps."""
