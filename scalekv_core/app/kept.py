"""Which tokens the last scale attends to, layer by layer: as shares, ready to be shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from scalekv_core.compare.explain import KeptTokens, visible_share
from scalekv_core.planning.planner import Planned


@frozen(eq=False, kw_only=True)
class KeptMap:
    """The tokens of one source map that the last scale attends to, in one layer.

    Attributes:
        size: (h, w) of the map.
        share: [h, w] the share of heads that keep the token.
    """

    size: tuple[int, int]
    share: NDArray[np.float64]

    @property
    def text(self) -> str:
        """How many tokens of the map, on average over heads."""
        return f"{self.share.sum():.4g} of {self.share.size}"


def shares(planned: Planned) -> NDArray[np.float64]:
    """[L, K] the share of its history that each scale attends to in each layer; not a number for the first scale."""
    return visible_share(planned.plan).T


def kept_maps(kept: KeptTokens, planned: Planned, layer: int) -> Sequence[KeptMap]:
    """One for every map but the last, which no later scale attends to; the row that follows the prompt.

    Raises:
        InputError: there is no such layer.
    """
    maps = planned.geometry.schedule.maps[:-1]
    return [
        KeptMap(size=(h, w), share=kept.on_map(source, layer=layer).mean(axis=0))
        for source, (_, h, w) in enumerate(maps)
    ]


def titles(planned: Planned) -> Sequence[str]:
    """The scales, by their maps."""
    return [f"{h}×{w}" for _, h, w in planned.geometry.schedule.maps]
