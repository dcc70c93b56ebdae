"""The bytes that a whole model needs while it generates a batch, by part, and the phase of the peak.

The cache's figures are exact. Those of the model are counted on the meta device, so that no formula has to be kept true.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from scalekv_core.memory.batch import Batch
from scalekv_core.memory.cache_bytes import CacheBytes
from scalekv_core.models.parts import TRANSFORMER
from scalekv_core.shapes.geometry import format_bytes


@frozen(kw_only=True)
class MemoryNeed:
    """Bytes of a batch with one kind of cache.

    Attributes:
        weights: {part: bytes} of the model.
        text_encoder: bytes of its weights.
        keeps_text_encoder: whether it stays in memory after it has encoded the prompts.
        take_turns: whether the parts take turns on the device.
        cache: the maximum resident between two scales, without what a codec stores in the host's memory.
        scratch: of the buffers that history is read into.
        attending: the most that one layer allocates while it attends and evicts.
        activations: the most that the model allocates beside them while it generates.
        decoding: the same while the images are decoded; there is no cache then.
        generating: the peak while generating, without weights.
        scale: at which scale that is.
    """

    weights: Mapping[str, int]
    text_encoder: int
    keeps_text_encoder: bool
    take_turns: bool
    cache: int
    scratch: int
    attending: int
    activations: int
    decoding: int
    generating: int
    scale: int

    @classmethod
    def of(cls, batch: Batch, cache: CacheBytes, *, keeps_text_encoder: bool) -> MemoryNeed:
        """The bytes that a batch needs with this cache."""
        peaks = cache.peaks(batch.dry_run)
        return cls(
            weights=batch.weights,
            text_encoder=batch.text_encoder,
            keeps_text_encoder=keeps_text_encoder and not batch.take_turns,
            take_turns=batch.take_turns,
            cache=cache.most,
            scratch=cache.scratch,
            attending=int(cache.attending.max()),
            activations=batch.dry_run.most,
            decoding=batch.decoding,
            generating=int(peaks.max()),
            scale=int(peaks.argmax()),
        )

    @property
    def phases(self) -> dict[str, int]:
        """{phase: peak bytes}."""
        weights = sum(self.weights.values())
        if self.take_turns:
            transformer = self.weights.get(TRANSFORMER, weights)
            return {
                "encoding the prompts": self.text_encoder,
                f"generating scale {self.scale}": transformer + self.generating,
                "decoding the images": weights - transformer + self.decoding,
            }
        later = weights + self.text_encoder * self.keeps_text_encoder
        return {
            "encoding the prompts": weights + self.text_encoder,
            f"generating scale {self.scale}": later + self.generating,
            "decoding the images": later + self.decoding,
        }

    @property
    def total(self) -> int:
        """The maximum over the phases."""
        return max(self.phases.values())

    @property
    def when(self) -> str:
        """The phase with the maximum."""
        return max(self.phases, key=lambda phase: self.phases[phase])

    @property
    def parts(self) -> dict[str, int]:
        """{part: bytes}, ordered from what is in memory longest to what is freed first."""
        return {
            **self.weights,
            "text encoder" + " (dropped)" * (not self.keeps_text_encoder): self.text_encoder,
            "cache": self.cache,
            "scratch": self.scratch,
            "a layer attending": self.attending,
            "activations": self.activations,
            "decoding the images": self.decoding,
        }

    @property
    def breakdown(self) -> str:
        """The parts in one line."""
        parts = [*self.weights.items(), ("text encoder", self.text_encoder), ("cache", self.cache)]
        parts += [("scratch", self.scratch), ("a layer attending", self.attending)]
        parts += [("activations", self.activations), ("decoding", self.decoding)]
        return ", ".join(f"{name} {format_bytes(count)}" for name, count in parts if count)

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        names = ("text_encoder", "cache", "scratch", "attending", "activations", "decoding", "total", "when")
        return {"weights": dict(self.weights), **{name: getattr(self, name) for name in names}}


@functools.lru_cache(maxsize=256)
def published_need(batch: Batch) -> MemoryNeed:
    """What the published code needs, which keeps the text encoder in memory."""
    return MemoryNeed.of(batch, CacheBytes.of_unmodified(batch.geometry), keeps_text_encoder=True)


@functools.lru_cache(maxsize=256)
def baseline_need(batch: Batch) -> MemoryNeed:
    """What the unmodified model needs as scalekv runs it, for comparison: it stores keys in the dtype that attention reads, and
    the text encoder leaves."""
    cache = CacheBytes.of_unmodified(evolve(batch.geometry, unmodified_key_dtype=None))
    return MemoryNeed.of(batch, cache, keeps_text_encoder=False)
