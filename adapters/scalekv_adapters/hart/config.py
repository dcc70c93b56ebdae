"""The sizes of a HART transformer, and those of the published one.

They stand apart from the model so that a plan can be made, or a checkpoint judged, without building anything.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch

from scalekv_adapters.sizes import as_sizes, positive
from scalekv_adapters.vqvae import VQVAEConfig, check_sides
from scalekv_core.errors import InputError, unknown_name
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

SIDES_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)

PUBLISHED: dict[str, dict[str, Any]] = {"hart-0.7b": {"depth": 24, "width": 1536, "heads": 24}}
"""{name: sizes}. Its config.json was not at hand; these sizes have the published number of parameters."""


@attrs.frozen(kw_only=True)
class HARTConfig:
    """Sizes of a HART transformer; the defaults are those of the published one.

    Attributes:
        depth, width, heads: of the blocks.
        hidden: width of the gated feed-forward networks.
        context_tokens, context_width: text tokens of every prompt, padding included, and the width of their features.
        patch_sides: sides of the square maps; the first one, of one token, is predicted from the text.
        codes, code_width: of the tokenizer.
        adaln: how the text modulates the blocks: "none", a "table" in each block, or a "linear" layer.
        pooling: over which text tokens the linear layer's condition is pooled: the maximum over "max" (all), or the mean over
            the real ones ("mean").
        attn_l2_norm: queries and keys of length 1, with a learnt scale per head.
        level: how a map's number is embedded: by a "sinusoid" or a "table".
        context_norm: whether text features are normalised first.
        diffusion_width, diffusion_depth, diffusion_steps: of the residual diffusion.

    Raises:
        InputError: a size below 1, a width that the heads do not divide or a head width that is no multiple of 4.
    """

    depth: int = attrs.field(validator=positive)
    width: int = attrs.field(validator=positive)
    heads: int = attrs.field(validator=positive)
    hidden: int = attrs.field(default=4096, validator=positive)
    context_tokens: int = attrs.field(default=300, validator=positive)
    context_width: int = attrs.field(default=1536, validator=positive)
    patch_sides: tuple[int, ...] = attrs.field(default=SIDES_1024, converter=as_sizes, validator=check_sides)
    codes: int = attrs.field(default=4096, validator=positive)
    code_width: int = attrs.field(default=32, validator=positive)
    adaln: str = attrs.field(default="none", validator=attrs.validators.in_(("none", "table", "linear")))
    pooling: str = attrs.field(default="max", validator=attrs.validators.in_(("max", "mean")))
    attn_l2_norm: bool = False
    level: str = attrs.field(default="sinusoid", validator=attrs.validators.in_(("sinusoid", "table")))
    context_norm: bool = True
    diffusion_width: int = attrs.field(default=1024, validator=positive)
    diffusion_depth: int = attrs.field(default=6, validator=positive)
    diffusion_steps: int = attrs.field(default=8, validator=positive)

    def __attrs_post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 4:
            raise InputError(
                f"HARTConfig: width {self.width} in {self.heads} heads is no multiple of 4 per head, as its rotation needs"
            )

    @classmethod
    def published(cls, name: str) -> HARTConfig:
        """The sizes of a published model; UnknownName if there is none of this name."""
        if name not in PUBLISHED:
            raise unknown_name("published HART", name, PUBLISHED)
        return cls(**PUBLISHED[name])

    @property
    def schedule(self) -> ScaleSchedule:
        """What passes the blocks: the text, which predicts the first map of one token, and every further map."""
        maps = [(1, side, side) for side in self.patch_sides[1:]]
        return ScaleSchedule([(1, 1, self.context_tokens), *maps], prefix=True)

    @property
    def maps(self) -> ScaleSchedule:
        """The maps of one image."""
        return ScaleSchedule.square(*self.patch_sides)

    @property
    def tokenizer(self) -> VQVAEConfig:
        """The published tokenizer, with these maps and codes."""
        return VQVAEConfig(codes=self.codes, code_width=self.code_width, patch_sides=self.patch_sides)

    def geometry(self, dtype: torch.dtype = torch.float32) -> CacheGeometry:
        """The shape of its cache, one row, where attention reads this dtype."""
        return CacheGeometry(
            schedule=self.schedule,
            layers=self.depth,
            heads=self.heads,
            head_dim=self.width // self.heads,
            dtype=dtype,
        )
