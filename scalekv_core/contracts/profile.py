"""The measured attention of a model: the input of every classifier that distinguishes layers or heads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from attrs import evolve, field, frozen
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from scalekv_core.errors import ProfileError, first_line
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of the history for which concentration is measured unless asked otherwise."""
FURTHER = ("entropy", "column_variance")
"""What profiles of older versions lack."""


@frozen(eq=False, kw_only=True)
class AttentionProfile:
    """Where the attention of each layer and head goes, averaged over queries, rows and images.

    Attributes:
        model: name of the model it was measured on.
        schedule: the maps it was measured with.
        mass: [K, L, H, K] ``mass[k, l, h, s]`` is the attention that queries of scale k pay to source scale s;
            sums to 1 over s; zero for s > k.
        fractions: [F] the shares of the history for which ``top_share`` was measured.
        top_share: [K, L, H, F] how much of a query's history mass its strongest ``ceil(fraction * N_k)`` history
            tokens hold, chosen per query; 1 where there is no history.
        entropy: [K, L, H] how widely a query's attention is spread: -sum of p log p over all tokens in view, in nats.
        column_variance: [K, L, H] how much what queries attend to differs between them: the variance of a token's attention
            over the queries of a map, summed over tokens.
        provenance: {name: text} prompts, images, queries, dtype, date, versions.

    Profiles of older versions lack ``entropy`` and ``column_variance``: ask :meth:`measured` for them.
    """

    model: str
    schedule: ScaleSchedule
    mass: NDArray[np.float32]
    fractions: tuple[float, ...] = FRACTIONS
    top_share: NDArray[np.float32]
    entropy: NDArray[np.float32] | None = None
    column_variance: NDArray[np.float32] | None = None
    provenance: Mapping[str, str] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        scales = len(self.schedule)
        if self.mass.ndim != 4 or (self.mass.shape[0], self.mass.shape[3]) != (scales, scales):
            raise ProfileError(f"attention mass is [K={scales}, L, H, K={scales}]; got shape {self.mass.shape}")
        if self.top_share.shape != (*self.mass.shape[:3], len(self.fractions)):
            raise ProfileError(f"top_share is [K, L, H, F={len(self.fractions)}]; got shape {self.top_share.shape}")
        further = {name: measure for name in FURTHER if (measure := getattr(self, name)) is not None}
        for name, measure in further.items():
            if measure.shape != self.mass.shape[:3]:
                raise ProfileError(f"{name} is [K, L, H] = {self.mass.shape[:3]}; got shape {measure.shape}")
        if not all(np.isfinite(measure).all() for measure in (self.mass, self.top_share, *further.values())):
            raise ProfileError("the profile holds numbers that are not finite; calibrate again")

    @property
    def current_mass(self) -> NDArray[np.float32]:
        """[K, L, H] the attention to the current map."""
        return np.einsum("klhk->klh", self.mass)

    def without_prefix(self) -> AttentionProfile:
        """The same of the maps alone: what a text prefix gets is left out; itself where there is none."""
        if not self.schedule.prefix:
            return self
        maps = self.schedule.without_prefix
        further = {name: measure[1:] for name in FURTHER if (measure := getattr(self, name)) is not None}
        return evolve(self, schedule=maps, mass=self.mass[1:, ..., 1:], top_share=self.top_share[1:], **further)

    def top_share_at(self, fraction: float) -> NDArray[np.float32]:
        """[K, L, H] concentration of the history for one of the measured fractions.

        Raises:
            ProfileError: the fraction was not measured.
        """
        for index, measured in enumerate(self.fractions):
            if math.isclose(measured, fraction, rel_tol=1e-6):
                return self.top_share[..., index]
        listed = ", ".join(f"{f:g}" for f in self.fractions)
        raise ProfileError(
            f"the profile of {self.model!r} has no concentration for {fraction:g} of the history; it has {listed}"
        )

    def measured(self, name: str) -> NDArray[np.float32]:
        """[K, L, H] the entropy or column variance.

        Raises:
            ProfileError: the profile was made by a version that did not measure it.
        """
        measure: NDArray[np.float32] | None = getattr(self, name)
        if measure is None:
            raise ProfileError(
                f"the profile of {self.model!r} has no {name.replace('_', ' ')}, which this version of scalekv measures; "
                f"make a new one with: scalekv calibrate --model {self.model}"
            )
        return measure

    def check_fits(self, geometry: CacheGeometry, model: str | None = None) -> None:
        """Raises ProfileError unless this was measured on a model of that shape, maps (after text of any length) and (if given)
        name."""
        self.check_model(geometry, model)
        if not self.fits(geometry.schedule):
            raise ProfileError(
                f"the profile was measured with maps {self.schedule}, the image has {geometry.schedule}; "
                "make one with: scalekv calibrate"
            )

    def fits(self, schedule: ScaleSchedule) -> bool:
        """Whether it was measured with the maps of this schedule; text in front may have another length."""
        return (self.schedule.prefix, self.schedule.without_prefix) == (schedule.prefix, schedule.without_prefix)

    def check_model(self, geometry: CacheGeometry, model: str | None = None) -> None:
        """Raises ProfileError unless this was measured on a model of that shape and (if given) name."""
        mine, theirs = self.mass.shape[1:3], (geometry.layers, geometry.heads)
        made = "make one with: scalekv calibrate"
        if model is not None and self.model != model:
            raise ProfileError(
                f"the profile was measured on {self.model!r}, the model is {model!r}; {made} --model {model}"
            )
        if mine != theirs:
            raise ProfileError(
                f"the profile was measured on {mine[0]} layers x {mine[1]} heads, the model has {theirs[0]} x {theirs[1]}; {made}"
            )

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file whose header holds the provenance."""
        header = {
            "model": self.model,
            "maps": self.schedule.maps,
            **({} if self.schedule.reads is None else {"reads": self.schedule.reads}),
            **({"prefix": True} if self.schedule.prefix else {}),
            "fractions": self.fractions,
            "provenance": dict(self.provenance),
        }
        arrays = {
            name: np.ascontiguousarray(measure)
            for name in ("mass", "top_share", *FURTHER)
            if (measure := getattr(self, name)) is not None
        }
        Path(path).write_bytes(save(arrays, metadata={"scalekv_profile": json.dumps(header)}))

    @classmethod
    def load(cls, path: str | Path) -> AttentionProfile:
        """Reads what ``save`` wrote; the file is data only.

        Raises:
            ProfileError: missing, truncated, or not a profile.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = json.loads((file.metadata() or {})["scalekv_profile"])
                return cls(
                    model=header["model"],
                    schedule=ScaleSchedule(
                        header["maps"], reads=header.get("reads"), prefix=header.get("prefix", False)
                    ),
                    mass=file.get_tensor("mass"),
                    fractions=tuple(header["fractions"]),
                    top_share=file.get_tensor("top_share"),
                    **{name: file.get_tensor(name) for name in FURTHER if name in file.keys()},  # noqa: SIM118
                    provenance=header["provenance"],
                )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, ProfileError) as error:
            raise ProfileError(f"{path} is not a profile that scalekv calibrate wrote ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error, 'no detail')}"
