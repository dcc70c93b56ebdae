"""A family's model without its weights: its own loop, for planning its memory and for measuring its time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence

from torch import Tensor, nn

from scalekv_adapters.generation import ImageBatch, steps
from scalekv_adapters.sampling import image_generators
from scalekv_core.contracts.adapter import AttentionCache
from scalekv_core.models.bare_model import BareModel
from scalekv_core.shapes.schedule import ScaleSchedule


class BareFamily(BareModel):
    """A transformer and an image decoder with the weights that they are made with.

    Args:
        transformer, decoder: in evaluation mode, without gradients.
        schedule: the maps of one image.
        blocks: the transformer's layers.
        projections: as `BareModel` has them.
    """

    def __init__(
        self,
        transformer: nn.Module,
        decoder: nn.Module,
        *,
        schedule: ScaleSchedule,
        blocks: Sequence[nn.Module],
        projections: Sequence[tuple[nn.Module, Tensor]],
    ) -> None:
        self.schedule = schedule
        self.parts = {"transformer": transformer, "image decoder": decoder}
        self.blocks = blocks
        self.projections = projections

    @abstractmethod
    def batch(self, images: int, *, guidance: bool) -> ImageBatch:
        """So many images that say nothing, to be generated with or without guidance."""

    def generate(self, images: int, cache: AttentionCache, *, guidance: bool = True) -> Generator[None, None, None]:
        generators = image_generators(range(images), images)
        for _ in steps(self.batch(images, guidance=guidance), cache, generators):
            yield
