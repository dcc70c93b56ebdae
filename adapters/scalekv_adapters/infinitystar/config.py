"""The sizes of an InfinityStar transformer, and those of the published ones."""

from __future__ import annotations

import attrs
import torch

from scalekv_adapters.sizes import positive
from scalekv_core.errors import InputError
from scalekv_core.models.weights import State, numbered, shape_of
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule


@attrs.frozen(kw_only=True)
class InfinityStarConfig:
    """Sizes of an InfinityStar transformer; the defaults are those of the published ones, which all have the same.

    Attributes:
        depth, width, heads: of the blocks; heads are query heads.
        kv_heads: key/value heads; consecutive query heads share one.
        hidden: width of the gated feed-forward networks.
        chunks: folders of the state dict that the blocks lie in.
        text_width: of the text's features.
        text_window: the most text tokens of a prompt; maps count their place from there.
        code_width: of the video tokenizer.

    Raises:
        InputError: a size below 1, heads that do not divide the width or fit the key/value heads, a head width that is no
            multiple of 8, or blocks that do not fill the chunks.
    """

    depth: int = attrs.field(default=36, validator=positive)
    width: int = attrs.field(default=4096, validator=positive)
    heads: int = attrs.field(default=32, validator=positive)
    kv_heads: int = attrs.field(default=8, validator=positive)
    hidden: int = attrs.field(default=16384, validator=positive)
    chunks: int = attrs.field(default=6, validator=positive)
    text_width: int = attrs.field(default=2048, validator=positive)
    text_window: int = attrs.field(default=512, validator=positive)
    code_width: int = attrs.field(default=64, validator=positive)

    def __attrs_post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 8:
            raise InputError(
                f"InfinityStarConfig: width {self.width} in {self.heads} heads is no multiple of 8 per head, as its "
                f"rotation needs"
            )
        if self.heads % self.kv_heads or self.depth % self.chunks:
            raise InputError(
                f"InfinityStarConfig: kv_heads must divide heads, and chunks the depth; got {self.kv_heads} of "
                f"{self.heads} and {self.chunks} of {self.depth}"
            )

    @classmethod
    def of_state(cls, state: State) -> InfinityStarConfig:
        """The sizes that a state dict with the official names has.

        Raises:
            CheckpointError: it is no complete InfinityStar.
        """
        width, code_width = shape_of(state, "word_embed.weight", 2)
        text_window, text_width = shape_of(state, "cfg_uncond", 2)
        block = "block_chunks.0.module.0."
        rows = {name: shape_of(state, f"{block}attn.{name}.weight", 2)[0] for name in ("q_proj", "k_proj")}
        (head_dim,) = shape_of(state, f"{block}attn.q_norm.weight", 1)
        chunks = numbered(state, "block_chunks.")
        return cls(
            depth=chunks * numbered(state, "block_chunks.0.module."),
            width=width,
            heads=rows["q_proj"] // head_dim,
            kv_heads=rows["k_proj"] // head_dim,
            hidden=shape_of(state, f"{block}mlp.gate_proj.weight", 2)[0],
            chunks=chunks,
            text_width=text_width,
            text_window=text_window,
            code_width=code_width,
        )

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    def geometry(self, schedule: ScaleSchedule, dtype: torch.dtype = torch.float32) -> CacheGeometry:
        """The shape of its cache for this schedule, one row, where attention reads this dtype."""
        return CacheGeometry(
            schedule=schedule,
            layers=self.depth,
            heads=self.kv_heads,
            group=self.heads // self.kv_heads,
            head_dim=self.head_dim,
            dtype=dtype,
        )
