"""Attaching to the objects of the official repositories, so that their own code generates: what both families share.

They are known by their structure; their code is never imported. Attention keeps everything itself there, so on every
attention *instance* two methods are replaced: `kv_caching`, with which the official loop says that an image begins and
ends, and `forward`, which hands queries, keys and values to a cache instead of concatenating them. The flags and tensors
in which the official attention caches are not touched, so nothing of them has to be restored, whatever happens to an image.

Keys are handed over in the dtype in which attention reads them, whatever dtype the official code stores.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.instances import drops_out, replace_all
from scalekv_core.contracts.adapter import AttentionCache, CacheSource, ModelAdapter
from scalekv_core.errors import SessionError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

WEIGHTS = {"mat_qkv.weight", "q_bias", "zero_k_bias", "v_bias", "proj.weight", "proj.bias"}
HEAD_SCALE = "scale_mul_1H11"
"""There only where queries and keys are l2-normalised."""
ATTRIBUTES = ("num_heads", "head_dim", "scale", "proj_drop", "kv_caching", "caching", "cached_k", "cached_v")


class OfficialImages(ABC):
    """What the replaced methods of all layers share: the cache of the image that is being generated, if one is.

    Args:
        model: the official object.
        attentions: of its layers, in order.
        source: makes the caches.
    """

    family: ClassVar[str]

    def __init__(self, model: nn.Module, attentions: list[Any], source: CacheSource) -> None:
        self.model, self.attentions, self.source = model, attentions, source
        self.originals = [attention.forward for attention in attentions]
        self.cache: AttentionCache | None = None

    def replacements(self, layer: int) -> dict[str, Any]:
        """{name: method} of the attention of a layer."""
        return {"forward": partial(self.forward, layer), "kv_caching": partial(self.kv_caching, layer)}

    def kv_caching(self, layer: int, enable: bool) -> None:
        """An image begins when the first layer is told to cache, and ends when the last one is told not to."""
        if enable and layer == 0:
            self.close()
            if drops_out(self.model):
                raise SessionError(
                    f"this official {self.family} is in training mode with dropout; call eval() on it to generate"
                )
            self.begin()
        elif not enable and layer == len(self.attentions) - 1:
            self.close()

    @abstractmethod
    def begin(self) -> None:
        """An image begins."""

    @abstractmethod
    def forward(self, layer: int, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        """(B, n, C) the attention of x (B, n, C); with a mask, or outside of an image, as the model itself has it."""

    def attended(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, n, C) what a layer puts out, by the cache."""
        assert self.cache is not None
        attention = self.attentions[layer]
        out = self.cache.attend(layer, q, k, v, softmax_scale=float(attention.scale))
        projected: Tensor = attention.proj_drop(attention.proj(out.transpose(1, 2).flatten(2)))
        return projected

    def close(self) -> None:
        """Ends the image, if one is being generated."""
        cache, self.cache = self.cache, None
        if cache is not None:
            cache.close()


class OfficialAdapter(ModelAdapter):
    """An object of an official repository: replaces two methods of each attention instance."""

    images: ClassVar[type[OfficialImages]]
    call: ClassVar[tuple[str, ...]]
    """Parameters of the attention's ``forward``."""
    attributes: ClassVar[tuple[str, ...]] = ATTRIBUTES
    """What the attention has besides weights."""
    model_attributes: ClassVar[tuple[str, ...]]
    """What the model has."""
    projection: ClassVar[str] = "mat_qkv"
    """The attention's projection to queries, keys and values."""
    weights: ClassVar[set[str]] = WEIGHTS
    """What the attention has in its state dict, a head scale aside."""

    @abstractmethod
    def attentions(self, model: nn.Module) -> list[Any]:
        """The self-attention of every block; None where a block has none."""

    @abstractmethod
    def schedule_of(self, model: Any) -> ScaleSchedule:
        """The maps that it is set to generate."""

    @abstractmethod
    def key_dtype(self, attention: Any) -> torch.dtype | None:
        """In which dtype the official attention stores its keys; None is that of the weights."""

    def matches(self, model: nn.Module) -> bool:
        found = self.attentions(model)
        official = all(self.is_official(attention) for attention in found)
        return bool(found) and official and all(hasattr(model, name) for name in self.model_attributes)

    def is_official(self, attention: Any) -> bool:
        """Whether this has the weights, the attributes and the call of the official attention, and no weights besides."""
        return (
            isinstance(attention, nn.Module)
            and self.weights_of(attention) == self.weights
            and all(hasattr(attention, name) for name in self.attributes)
            and tuple(inspect.signature(attention.forward).parameters) == self.call
        )

    def weights_of(self, attention: nn.Module) -> set[str]:
        """The names in its state dict that count; a head scale does not."""
        return set(attention.state_dict()) - {HEAD_SCALE}

    def geometry(self, model: nn.Module) -> CacheGeometry:
        """The shape of the model's cache: the schedule that it is set to generate, one row, the dtype of its weights.

        Raises:
            InputError: it is set to generate maps that it was not trained with.
        """
        found = self.attentions(model)
        first = found[0]
        return CacheGeometry(
            schedule=self.schedule_of(model),
            layers=len(found),
            heads=first.num_heads,
            head_dim=first.head_dim,
            dtype=getattr(first, self.projection).weight.dtype,
            unmodified_key_dtype=self.key_dtype(first),
        )

    def attach(self, model: nn.Module, source: CacheSource) -> Callable[[], None]:
        found = self.attentions(model)
        images = self.images(model, found, source)
        changes = [(attention, images.replacements(layer)) for layer, attention in enumerate(found)]
        return replace_all(changes, afterwards=images.close)


def projected(attention: Any, x: Tensor) -> Tensor:
    """Queries, keys and values (B, n, 3, H, D) of x (B, n, C), with bias."""
    bias = torch.cat((attention.q_bias, attention.zero_k_bias, attention.v_bias))
    rows = F.linear(x, attention.mat_qkv.weight, bias)
    return rows.view(*x.shape[:2], 3, attention.num_heads, attention.head_dim)


def normalised(attention: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys after l2 norm and head scale, if the attention has them; in the layout of its head scale."""
    if not hasattr(attention, HEAD_SCALE):
        return q, k
    scale = attention.scale_mul_1H11.clamp_max(attention.max_scale_mul).exp()
    return F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
