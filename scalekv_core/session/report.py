"""What a session held, as three figures that are always shown together: planned, resident and peak bytes."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from scalekv_core.contracts.policy import Policy
from scalekv_core.planning.planner import Planned
from scalekv_core.shapes.geometry import format_bytes


@frozen(eq=False, kw_only=True)
class ImageReport:
    """The figures of one image (or batch).

    Attributes:
        planned: the plan of the image.
        resident: [K] bytes really held after each scale: every storage once, views by what they keep alive.
        peak: most bytes at one moment, with scratch and the copies of eviction; None if it was not measured.
        dropped: whether any token was evicted.
    """

    planned: Planned
    resident: tuple[int, ...]
    peak: int | None
    dropped: bool

    @property
    def as_planned(self) -> bool:
        """Whether resident bytes equalled planned bytes after every scale."""
        return self.resident == self.planned.footprint.planned


@frozen(eq=False, kw_only=True)
class Report:
    """The figures of a session, image by image; its text describes the last image."""

    policy: Policy
    images: tuple[ImageReport, ...]

    def as_dict(self) -> dict[str, Any]:
        """The figures of the last image, as plain values."""
        image = self.images[-1]
        geometry, footprint = image.planned.geometry, image.planned.footprint
        return {
            "policy": self.policy.name,
            "budget": str(image.planned.budget),
            "images": len(self.images),
            "rows": geometry.rows,
            "dtype": str(geometry.dtype).removeprefix("torch."),
            "tokens_per_head": max(image.planned.plan.slots().tolist()) / geometry.slots_per_token,
            "planned_bytes": footprint.most_planned,
            "resident_bytes": max(image.resident),
            "peak_bytes": image.peak,
            "scratch_bytes": footprint.scratch,
            "unmodified_bytes": footprint.unmodified,
            "compression": footprint.unmodified / max(1, max(image.resident)),
        }

    def __str__(self) -> str:
        f = self.as_dict()
        peak = "not measured" if f["peak_bytes"] is None else format_bytes(f["peak_bytes"])
        return (
            f"{f['policy']}, {f['budget']}: holds {format_bytes(f['resident_bytes'])} "
            f"(planned {format_bytes(f['planned_bytes'])}, peak {peak}), unmodified {format_bytes(f['unmodified_bytes'])}: "
            f"{f['compression']:.1f}x less, {f['rows']} rows in {f['dtype']}"
        )
