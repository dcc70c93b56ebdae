"""A whole transformer with random weights, run by its own loop: what the model costs beside its attention."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_core.bench.contenders import BenchCache, Contender
from scalekv_core.bench.timing import WHOLE, Around, Subject
from scalekv_core.memory.batch import Batch
from scalekv_core.models.bare_model import BareModel


class WholeTransformer(Subject):
    """Models with as many layers as a contender runs, made on demand for one batch.

    Args:
        batch: the model and what it generates.
        device: where.
        seed: of the random weights.
    """

    def __init__(self, batch: Batch, device: torch.device, *, seed: int = 0) -> None:
        self._batch, self._device, self._seed = batch, device, seed
        self._models: dict[int, BareModel] = {}
        self.scales = len(batch.geometry.schedule)

    def prepare(self, contender: Contender) -> None:
        self._model(len(contender.layers))

    def draw(self, contender: Contender, cache: BenchCache, around: Around) -> None:
        self._draw(contender, _Through(cache, around), lambda scale, place, call: call())

    def draw_layers(self, contender: Contender, cache: BenchCache, around: Around) -> None:
        self._draw(contender, cache, around)

    @torch.inference_mode()
    def _draw(self, contender: Contender, cache: BenchCache | _Through, around: Around) -> None:
        model = self._model(len(contender.layers))
        scale = 0

        def run(place: int, forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
            return around(scale, place, functools.partial(forward, *args, **kwargs))

        with ExitStack() as stack:
            for place, block in enumerate(model.blocks):
                stack.enter_context(_forward(block, functools.partial(run, place, block.forward)))
            if contender.projects_twice:
                for module, weight in model.projections:
                    stack.enter_context(_projected_twice(module, weight))
            images = model.generate(self._batch.images, cache, guidance=self._batch.guidance)
            for scale in range(self.scales):
                around(scale, WHOLE, functools.partial(next, images))
            images.close()
        cache.close()

    def _model(self, layers: int) -> BareModel:
        if layers not in self._models:
            batch = self._batch
            with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
                torch.manual_seed(self._seed)
                self._models[layers] = batch.card.bare(
                    aspect=batch.aspect, size=batch.size, layers=layers, device=self._device, dtype=batch.dtype
                )
        return self._models[layers]


class _Through:
    """A cache whose calls all go through a function.

    Args:
        cache: what answers.
        around: makes the calls.
    """

    def __init__(self, cache: BenchCache, around: Around) -> None:
        self._cache, self._around = cache, around
        self._scales: dict[int, int] = {}
        self.close = cache.close

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        scale = self._scales.get(layer, 0)
        self._scales[layer] = scale + store
        out: Tensor = self._around(
            scale,
            layer,
            functools.partial(self._cache.attend, layer, q, k, v, softmax_scale=softmax_scale, store=store),
        )
        return out


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replaces the forward of this instance within the block."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@contextmanager
def _projected_twice(module: nn.Module, weight: Tensor) -> Iterator[None]:
    """Projects the module's input once more; the result is not used."""

    def project(_: nn.Module, args: tuple[Any, ...]) -> None:
        F.linear(args[0].to(weight.dtype), weight)

    handle = module.register_forward_pre_hook(project)
    try:
        yield
    finally:
        handle.remove()
