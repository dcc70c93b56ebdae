"""The sizes of a VAR transformer, and those that were published.

They stand apart from the model so that a plan can be made, or a checkpoint judged, without building anything.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from scalekv_adapters.sizes import as_sizes, positive
from scalekv_adapters.vqvae import SIDES_256, SIDES_512, check_sides
from scalekv_core.errors import InputError, unknown_name
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

# depth, sides; the width is 64 per layer and each head is 64 wide, so there are as many heads as layers
PUBLISHED: dict[str, dict[str, Any]] = {
    "var-d16": {"depth": 16},
    "var-d20": {"depth": 20},
    "var-d24": {"depth": 24},
    "var-d30": {"depth": 30},
    "var-d36-512": {"depth": 36, "patch_sides": SIDES_512, "shared_adaln": True},
}


@attrs.frozen(kw_only=True)
class VARConfig:
    """Sizes of a VAR transformer.

    >>> VARConfig.published("var-d30").width
    1920

    Raises:
        InputError: a size below 1, a width that the heads do not divide, sides that do not rise.
    """

    depth: int = attrs.field(validator=positive)
    width: int = attrs.field(validator=positive)
    heads: int = attrs.field(validator=positive)
    num_classes: int = attrs.field(default=1000, validator=positive)
    patch_sides: tuple[int, ...] = attrs.field(default=SIDES_256, converter=as_sizes, validator=check_sides)
    codes: int = attrs.field(default=4096, validator=positive)
    code_width: int = attrs.field(default=32, validator=positive)
    shared_adaln: bool = False
    attn_l2_norm: bool = True
    mlp_ratio: float = 4.0

    def __attrs_post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"VARConfig: width {self.width} is not divisible by {self.heads} heads")

    @classmethod
    def published(cls, name: str) -> VARConfig:
        """The sizes of a published model, by its name, such as "var-d16".

        Raises:
            UnknownName: there is no such model.
        """
        if name not in PUBLISHED:
            raise unknown_name("published VAR", name, PUBLISHED)
        sizes = PUBLISHED[name]
        return cls(width=64 * sizes["depth"], heads=sizes["depth"], **sizes)

    @property
    def schedule(self) -> ScaleSchedule:
        """The maps of one image."""
        return ScaleSchedule.square(*self.patch_sides)

    @property
    def tokens(self) -> int:
        """L, the tokens of all scales together."""
        return self.schedule.total

    def geometry(self, dtype: torch.dtype = torch.float32) -> CacheGeometry:
        """The shape of its cache, one row, where attention reads this dtype."""
        return CacheGeometry(
            schedule=self.schedule,
            layers=self.depth,
            heads=self.heads,
            head_dim=self.width // self.heads,
            dtype=dtype,
        )

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of the feed-forward networks."""
        return round(self.width * self.mlp_ratio)


def tokens_per_level(levels: Tensor) -> tuple[int, ...]:
    """Tokens of every scale that the weights were trained with, from their table ``lvl_1L`` (1, L) of levels.

    >>> tokens_per_level(torch.tensor([[0, 1, 1, 1, 1]]))
    (1, 4)
    """
    return tuple(levels.flatten().bincount().tolist())


def check_trained(schedule: ScaleSchedule, levels: Tensor) -> None:
    """Raises InputError unless these are the maps that the weights were trained with; others would generate noise.

    Args:
        schedule: the maps to generate.
        levels: (1, L) the table ``lvl_1L`` of the weights.
    """
    trained = tokens_per_level(levels)
    if schedule.tokens != trained:
        raise InputError(
            f"this VAR is set to generate the maps {schedule}, and was trained with maps of {trained} tokens (its lvl_1L); "
            "other maps generate noise, so give it its own patch sides"
        )
