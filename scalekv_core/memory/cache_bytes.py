"""The bytes of a cache by layer and scale: under a plan, and of the unmodified model."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from scalekv_core.memory.attention_dry_run import attending_bytes
from scalekv_core.memory.dry_run import DryRun
from scalekv_core.planning.footprint import layer_bytes
from scalekv_core.planning.planner import Planned
from scalekv_core.shapes.geometry import CacheGeometry


@frozen(eq=False, kw_only=True)
class CacheBytes:
    """Bytes of a cache on the device while images are generated.

    Attributes:
        resident: [K, L] of each layer after each scale.
        attending: [K, L] what a layer allocates while it attends, above what it held before.
        scratch: of the buffers that all layers share.
        most: the maximum resident between two scales.
    """

    resident: NDArray[np.int64]
    attending: NDArray[np.int64]
    scratch: int
    most: int

    @classmethod
    def of_plan(cls, planned: Planned) -> CacheBytes:
        """The bytes of a plan, without codes in the host's memory.

        Raises:
            ContractError: a part of the policy does not run on tensors without values.
        """
        plan, policy, geometry = planned.plan, planned.policy, planned.geometry
        resident = layer_bytes(plan, policy, geometry, on_device=True)
        # there is a device beside the host here, so what a codec stores on the host is copied ahead of attention
        scratch = planned.read_ahead(policy.codec.leaves_device).footprint.scratch
        return cls(
            resident=resident,
            attending=attending_bytes(planned),
            scratch=scratch,
            most=int(resident.sum(axis=1).max()),
        )

    @classmethod
    def of_unmodified(cls, geometry: CacheGeometry) -> CacheBytes:
        """Bytes of a model that concatenates: a layer's old and new keys and values side by side, then the keys once
        more in the dtype that attention reads, if they are stored in another one."""
        tokens = np.asarray(geometry.schedule.unmodified_held)[:, None]
        resident = np.repeat(tokens * (geometry.unmodified_token_bytes // geometry.layers), geometry.layers, axis=1)
        cast = geometry.unmodified_key_dtype not in (None, geometry.dtype)
        cast_keys = tokens * (cast * geometry.token_bytes // geometry.layers // 2)
        attending = np.maximum(resident, resident - _before(resident) + cast_keys)
        return cls(resident=resident, attending=attending, scratch=0, most=geometry.unmodified_bytes)

    def peaks(self, beside: DryRun) -> NDArray[np.int64]:
        """[K] the peak of each scale, together with what the model takes beside its cache: before the first layer attends,
        while one does, between two, and after the last."""
        resident, (opening, attending, between, closing) = self.resident, beside.stages
        before = _before(resident)
        later_layers = np.cumsum(before[:, ::-1], axis=1)[:, ::-1] - before
        after_layer = np.cumsum(resident, axis=1) + later_layers
        before_layer = after_layer - resident + before
        stages = [
            before.sum(axis=1) + opening,
            (before_layer + self.attending).max(axis=1) + attending,
            after_layer[:, :-1].max(axis=1, initial=0) + between,
            resident.sum(axis=1) + closing,
        ]
        peaks: NDArray[np.int64] = np.max(stages, axis=0) + self.scratch
        return peaks


def _before(resident: NDArray[np.int64]) -> NDArray[np.int64]:
    """[K, L] what each layer holds before each scale."""
    return np.vstack([np.zeros_like(resident[:1]), resident[:-1]])
