"""What a model takes beside its cache, found by a dry run: it generates a batch on torch's meta device, without memory and
arithmetic.

Three layers stand for all, since a layer's activations are freed when the next one begins. Every storage that the model's own code
makes is counted for as long as it lives. The workspace of kernels (such as convolutions) is not seen, nor what an allocator
rounds up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import frozen
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scalekv_core.memory.meter import StorageTracker
from scalekv_core.models.bare_model import BareModel

LAYERS = 3
"""Layers of a dry run: the first, whose input is the embedding; a middle one; the last, which the head follows."""
META = "meta"


@frozen(kw_only=True)
class DryRun:
    """Bytes that a batch takes beside its cache and its weights.

    Attributes:
        opening: [K] the most in each scale until the first layer attends.
        attending: [K] alive while a layer attends, with the output of attention.
        between: [K] the most from one layer's attention to the next one's.
        closing: [K] the most after the last layer has attended: head, sampling, the next map's input.
        kept: alive after the last scale, while the images are decoded.
    """

    opening: tuple[int, ...]
    attending: tuple[int, ...]
    between: tuple[int, ...]
    closing: tuple[int, ...]
    kept: int

    @property
    def stages(self) -> NDArray[np.int64]:
        """[4, K] opening, attending, between and closing."""
        return np.array([self.opening, self.attending, self.between, self.closing])

    @property
    def most(self) -> int:
        """Maximum bytes while generating."""
        return int(self.stages.max())

    def extrapolated(self, larger: DryRun, images: int, *, first: int = 1) -> DryRun:
        """The figures of ``images`` images, extrapolated from those of ``first`` images (self) and of one more."""
        more = images - first
        stages = self.stages + more * (larger.stages - self.stages)
        opening, attending, between, closing = (tuple(stage) for stage in stages.tolist())
        return DryRun(
            opening=opening,
            attending=attending,
            between=between,
            closing=closing,
            kept=self.kept + more * (larger.kept - self.kept),
        )


def dry_run(model: BareModel, images: int, *, guidance: bool = True) -> DryRun:
    """The bytes of a batch, generated on the meta device.

    Args:
        model: on the meta device, with at least :data:`LAYERS` layers if the real one has as many.
        images: generated at once.
        guidance: two rows an image instead of one.
    """
    tracker = MetaTracker()
    cache = _NoCache(tracker)
    scales = []
    with on_meta(tracker):
        for _ in model.generate(images, cache, guidance=guidance):
            scales.append(cache.finish_scale())
    opening, attending, between, closing = zip(*scales, strict=True)
    return DryRun(opening=opening, attending=attending, between=between, closing=closing, kept=tracker.live)


def decoding_bytes(model: BareModel, images: int) -> int:
    """The peak of decoding a batch on the meta device."""
    with on_meta(MetaTracker()) as tracker:
        model.decode(images)
    return tracker.peak


def _new_output(query: Tensor, value: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:-1], value.shape[-1])


@contextmanager
def on_meta(
    tracker: MetaTracker, *, attended: Callable[[Tensor, Tensor], Tensor] = _new_output
) -> Iterator[MetaTracker]:
    """A block in which tensors are made on the meta device and counted.

    Args:
        tracker: counts.
        attended: (query, value) -> what attention returns.
    """
    with torch.inference_mode(), torch.device(META), _LikeARealDevice(attended), tracker:
        yield tracker


def weight_bytes(model: BareModel) -> dict[str, int]:
    """{part: bytes} of parameters and buffers, each storage once."""
    return {name: module_bytes(part) for name, part in model.parts.items()}


def module_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers.

    >>> module_bytes(nn.Linear(3, 2))
    32
    """
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


class _LikeARealDevice(TorchFunctionMode):
    """Hides where the meta device differs from a real one: its attention stores a matrix of weights, which fused kernels do not,
    and it has no generators."""

    def __init__(self, attended: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._attended = attended

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._attended(args[0], args[2])
        return func(*args, **{name: value for name, value in (kwargs or {}).items() if name != "generator"})


class MetaTracker(StorageTracker):
    """Counts storages on the meta device, each once and for as long as it lives."""

    def lap(self) -> int:
        """Peak bytes since the previous call."""
        most, self.peak = self.peak, self.live
        return most

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage.device.type == META:
            super()._add(storage)


class _NoCache:
    """A cache that stores nothing, and records live bytes at each attention and the peak in between."""

    def __init__(self, tracker: MetaTracker) -> None:
        self._tracker = tracker
        self._laps: list[int] = []
        self._attending = 0

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        self._laps.append(self._tracker.lap())
        out = torch.empty_like(q)
        self._attending = max(self._attending, self._tracker.live)
        return out

    def finish_scale(self) -> tuple[int, int, int, int]:
        """The scale's opening, attending, between and closing bytes; then the next scale begins."""
        opening, *between = self._laps
        figures = opening, self._attending, max(between, default=0), self._tracker.lap()
        self._laps, self._attending = [], 0
        return figures

    def close(self) -> None:
        """Frees nothing, since nothing is stored."""
