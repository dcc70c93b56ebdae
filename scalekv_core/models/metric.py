"""What a metric is given and what it answers. Metrics enter by the hook ``scalekv_metrics``, like everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core.models.image_model import Generation


@frozen(eq=False, kw_only=True)
class Pair:
    """What a policy generated beside what the unmodified model generated, with the same prompts, seeds and sampling.

    Attributes:
        model: the model's name.
        prompts, seeds: one per image, B of them.
        unmodified: what the unmodified model generated, with logits.
        compressed: what the compressed model generated on its own.
        forced: what the compressed model would have chosen, given ``unmodified.tokens`` at every scale, with logits.
    """

    model: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    unmodified: Generation
    compressed: Generation
    forced: Generation


class Metric(ABC):  # noqa: B024  (its two kinds below are what is written)
    """A figure that says how far compressed images are from those of the unmodified model, or how good they are."""

    unit: ClassVar[str] = ""
    """What stands behind the number: ``dB``, ``nats``."""

    higher_is_better: ClassVar[bool] = True

    models: ClassVar[tuple[str, ...]] = ()
    """Names of the models that it can judge; empty for all."""

    def check_available(self) -> None:  # noqa: B027  (most need nothing)
        """Raises MissingExtra or InputError where a package or weights are missing; called before anything is generated."""


class PairMetric(Metric):
    """A metric with a figure for every image."""

    @abstractmethod
    def measure(self, pair: Pair) -> Tensor:
        """(B,) the figures; infinity and not-a-number are answers, too."""

    def by_scale(self, pair: Pair) -> Tensor | None:
        """(B, K) the figures scale by scale; None, as here, where there are none."""
        return None

    def both(self, pair: Pair) -> tuple[Tensor, Tensor | None]:
        """(:meth:`measure`, :meth:`by_scale`) of a pair; for metrics that compute one from the other, which then do so once."""
        return self.measure(pair), self.by_scale(pair)

    def pool(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(...,) the figure of many images, from the (..., images) of each: here their mean."""
        pooled: NDArray[np.float64] = values.mean(axis=-1)
        return pooled


class SetMetric(Metric):
    """A metric of a whole set of images, such as FID."""

    @abstractmethod
    def measure(self, compressed: Iterable[Tensor], unmodified: Iterable[Tensor]) -> float:
        """The figure of all images (3, H, W) in [0, 1]; both sets are in the same order."""
