"""What a model generates at once, and the bytes that it needs beside the cache: weights, activations, decoding.

The bytes are counted by dry runs (see :mod:`scalekv_core.memory.dry_run`), each of which is made once and then remembered.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from attrs import evolve, field, frozen
from attrs.converters import optional

from scalekv_core.errors import InputError
from scalekv_core.memory.dry_run import LAYERS, DryRun, decoding_bytes, dry_run, weight_bytes
from scalekv_core.models.bare_model import BareModel
from scalekv_core.models.card import ModelCard
from scalekv_core.models.requests import read_dtype
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.values import flag, whole

FEW = 2
"""Images of the smaller dry run; as many or fewer are run themselves."""


@frozen(kw_only=True)
class Batch:
    """Images that are generated at once.

    Attributes:
        model: the model's name.
        card: the model's card.
        images: how many.
        guidance: whether each image takes two rows.
        aspect, size: of the images; None is the model's own.
        dtype: in which the model runs; None is its own.
        random_weights: whether the weights are random; then there is no text encoder.
        take_turns: whether text encoder, transformer and image decoder take turns on the device.
    """

    model: str
    card: ModelCard
    images: int = field(default=1, validator=whole(1))
    guidance: bool = field(default=True, validator=flag)
    aspect: str | None = None
    size: str | None = None
    dtype: torch.dtype | None = field(default=None, converter=optional(read_dtype))
    random_weights: bool = field(default=False, validator=flag)
    take_turns: bool = field(default=False, validator=flag)

    @property
    def geometry(self) -> CacheGeometry:
        """The shape of the cache.

        Raises:
            InputError: the model generates no such images.
        """
        try:
            one_row = self.card.shape(aspect=self.aspect, size=self.size)
        except InputError as error:
            raise InputError(f"model {self.model!r} generates no such images: {error}") from error
        shape = one_row.for_rows(self.images * (1 + self.guidance))
        return shape if self.dtype is None else evolve(shape, dtype=self.dtype)

    @property
    def weights(self) -> Mapping[str, int]:
        """{part: bytes} of the weights, without the text encoder."""
        one, two = (weight_bytes(_bare(self._of(1), layers)) for layers in (1, 2))
        further_layers = self.geometry.layers - 1
        return {part: one[part] + further_layers * (two[part] - one[part]) for part in one}

    @property
    def text_encoder(self) -> int:
        """Bytes of the text encoder's weights."""
        return 0 if self.random_weights else self.card.text_encoder_bytes(self.geometry.dtype)

    @property
    def dry_run(self) -> DryRun:
        """The bytes that generating takes beside weights and cache.

        Extrapolated from two and three images: the first may take a constant part that further images do not.
        """
        if self.images <= FEW:
            return _dry_run(self)
        return _dry_run(self._of(FEW)).extrapolated(_dry_run(self._of(FEW + 1)), self.images, first=FEW)

    @property
    def decoding(self) -> int:
        """The peak while the images are decoded, with the tensors that remain from generating."""
        return self.dry_run.kept + _decoding(self)

    def _of(self, images: int) -> Batch:
        return evolve(self, images=images)


@functools.lru_cache(maxsize=64)
def _bare(batch: Batch, layers: int) -> BareModel:
    """The model with so many of its layers, on the meta device; layers are alike, so a few can stand for all."""
    return batch.card.bare(aspect=batch.aspect, size=batch.size, layers=layers, dtype=batch.dtype)


@functools.lru_cache(maxsize=64)
def _dry_run(batch: Batch) -> DryRun:
    return dry_run(_few_layers(batch), batch.images, guidance=batch.guidance)


@functools.lru_cache(maxsize=256)
def _decoding(batch: Batch) -> int:
    return decoding_bytes(_few_layers(batch), batch.images)


def _few_layers(batch: Batch) -> BareModel:
    return _bare(evolve(batch, images=1), min(LAYERS, batch.geometry.layers))
