"""Calibration: generates a few images with the unmodified cache and measures what each layer and head attends to."""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from attrs import define, evolve, field, frozen
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.defaults import Everything
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import FRACTIONS, AttentionProfile
from scalekv_core.contracts.strategies import TokenSelector
from scalekv_core.contracts.view import CacheView, take_runs
from scalekv_core.errors import InputError, SessionError, shortened
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.session.attaching import attached, unwrapped
from scalekv_core.session.session import Session
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.shapes.values import check_whole


class _Nobody(TokenSelector):
    def select(self, view: CacheView, keep: int) -> Tensor:
        raise AssertionError("calibration keeps everything")


@frozen(eq=False, kw_only=True)
class _Sums:
    """float64 sums over queries and rows; ``weight`` counts them."""

    mass: Tensor  # [K, L, H, K]
    share: Tensor  # [K, L, H, F]
    entropy: Tensor  # [K, L, H]
    variance: Tensor  # [K, L, H]
    weight: Tensor  # [K, L]


@define(eq=False)
class Calibration:
    """Sums of attention, collected while images are generated inside :func:`calibrate`.

    Attributes:
        queries: how many queries of each map are measured (evenly spaced; all of a smaller map).
        fractions: for which shares of the history concentration is measured.
    """

    model: str
    geometry: CacheGeometry
    queries: int = 64
    fractions: tuple[float, ...] = FRACTIONS
    provenance: dict[str, str] = field(factory=dict)
    images: int = 0
    _sums: _Sums | None = None

    @torch.no_grad()
    def __call__(self, view: CacheView, kept: Tensor | None) -> None:
        """Adds one scale of one layer: the cache's observer."""
        if view.schedule != self.geometry.schedule:
            self._begin(view.schedule)
        sums = self._sums or self._zeros(view.k.device)
        step = max(1, -(-view.current // self.queries))
        queries = (
            view.queries(torch.arange(view.current, device=view.q.device)[step // 2 :: step]) if step > 1 else view.q
        )
        keys, sources = _read(view)
        where, number = (view.scale, view.layer), queries.shape[2]
        columns = queries.new_zeros(2, *keys.shape[:3], dtype=torch.float32)  # sums over queries of p and of p^2
        for part in queries.split(ops.chunk_length(keys), dim=2):
            probabilities = ops.attention_probabilities(part, keys, view.softmax_scale)
            for source, (start, stop) in sources.items():
                sums.mass[where][:, source] += probabilities[..., start:stop].sum(dim=(0, 2, 3)).double()
            sums.share[where] += self._shares(probabilities[..., : keys.shape[2] - view.current])
            sums.entropy[where] += torch.special.entr(probabilities).sum(dim=(0, 2, 3)).double()
            columns += torch.stack([probabilities.sum(dim=2), probabilities.square().sum(dim=2)])
        mean, mean_of_squares = columns / number
        variance = (mean_of_squares - mean.square()).clamp_min(0).sum(dim=(0, 2))
        sums.variance[where] += variance.double() * number
        sums.weight[where] += queries.shape[0] * number
        last = (len(view.schedule) - 1, self.geometry.layers - 1)
        self.images += (view.scale, view.layer) == last

    def profile(self) -> AttentionProfile:
        """The averages over all queries, rows and images so far.

        Raises:
            SessionError: no image was generated.
        """
        if not self.images or self._sums is None:
            raise SessionError("calibration has seen no image; generate one inside the block")
        sums, weight = self._sums, self._sums.weight[:, :, None]

        def mean(total: Tensor) -> NDArray[np.float32]:
            averages: NDArray[np.float32] = (
                (total / weight.view(*weight.shape, *[1] * (total.dim() - 3))).float().cpu().numpy()
            )
            return averages

        return AttentionProfile(
            model=self.model,
            schedule=self.geometry.schedule,
            mass=mean(sums.mass),
            fractions=self.fractions,
            top_share=mean(sums.share),
            entropy=mean(sums.entropy),
            column_variance=mean(sums.variance),
            provenance={
                **self.provenance,
                "batches": str(self.images),
                "queries_per_map": str(self.queries),
                "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
                "torch": torch.__version__,
            },
        )

    def _begin(self, schedule: ScaleSchedule) -> None:
        """Sets the schedule to measure: that of the first image, since callers may choose a schedule per image."""
        if self.images:
            raise SessionError(f"calibration of maps {self.geometry.schedule} was given {schedule}; do one at a time")
        self.geometry = evolve(self.geometry, schedule=schedule)
        self._sums = None

    def _shares(self, history: Tensor) -> Tensor:
        """(H, F) sums over rows and queries of the share of the history's mass that the strongest tokens hold."""
        tokens = history.shape[3]
        if tokens == 0:
            return history.new_full((history.shape[1], len(self.fractions)), history.shape[0] * history.shape[2])
        best = history.sort(dim=-1, descending=True).values.cumsum(dim=-1)
        last = [math.ceil(Fraction(str(fraction)) * tokens) - 1 for fraction in self.fractions]
        shares = best[..., last] / best[..., -1:].clamp_min(torch.finfo(best.dtype).tiny)
        return shares.double().sum(dim=(0, 2))

    def _zeros(self, device: torch.device) -> _Sums:
        scales = len(self.geometry.schedule)
        shape = (scales, self.geometry.layers, self.geometry.heads)
        with torch.inference_mode(False):  # sums that images in any mode can be added to
            zeros = functools.partial(torch.zeros, dtype=torch.float64, device=device)
            self._sums = _Sums(
                mass=zeros(*shape, scales),
                share=zeros(*shape, len(self.fractions)),
                entropy=zeros(shape),
                variance=zeros(shape),
                weight=zeros(shape[:2]),
            )
        return self._sums


@contextlib.contextmanager
def calibrate(
    model: Any,
    *,
    queries: int = 64,
    fractions: tuple[float, ...] = FRACTIONS,
    provenance: Mapping[str, str] | None = None,
    registry: Registry | None = None,
) -> Iterator[Calibration]:
    """A block in which generated images are measured; it yields an object whose ``profile()`` is the result.

    Args:
        model: as for :func:`~scalekv_core.session.compress.compress`.
        queries: how many queries of each map are measured.
        fractions: for which shares of the history concentration is measured.
        provenance: what else the profile should say about itself (prompts, guidance).
        registry: where the adapter is looked up.

    Raises:
        InputError: queries or fractions out of range.
        SessionError: no adapter knows the model, or it is attached already.
    """
    check_whole(queries, "calibration", "queries", least=1)
    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one <= 1 for one in fractions):
        raise InputError(f"calibration measures fractions in (0, 1]; got {shortened(fractions)}")
    module, name, _ = unwrapped(model)
    adapter_name, adapter = (registry or shared_registry()).adapter_for(module)
    calibration = Calibration(
        name or adapter_name,
        adapter.geometry(module),
        queries=queries,
        fractions=fractions,
        provenance=dict(provenance or {}),
    )
    policy = Policy(name="calibration", allocator=Everything(), selector=_Nobody(), budget="100%")
    session = Session(module, adapter, policy, observer=calibration)
    with attached(module, adapter, session, "calibration"):
        yield calibration


def _read(view: CacheView) -> tuple[Tensor, dict[int, tuple[int, int]]]:
    """(B, H, N, D) keys that the map attends to, and {map: (start, stop)} of them. Everything that is read is held."""
    schedule, scale = view.schedule, view.scale
    held = [*(schedule.alive[scale - 1] if scale else ()), scale]
    lengths = {m: schedule.tokens[m] for m in held}
    read = {m: n for m, n in lengths.items() if m == scale or m in schedule.read_by(scale)}
    runs = [run for m, run in _runs_of(lengths).items() if m in read]
    return (view.k if read == lengths else take_runs(view.k, runs)), _runs_of(read)


def _runs_of(lengths: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    edges = pairwise(accumulate(lengths.values(), initial=0))
    return dict(zip(lengths, edges, strict=True))
