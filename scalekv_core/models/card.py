"""What is known of an image model before it is loaded. The command line finds models by their cards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import gt, instance_of, optional

from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.models.bare_model import BareModel
from scalekv_core.models.former_names import FormerNames
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound
from scalekv_core.models.weights.format import WeightsFormat
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule


@frozen(kw_only=True)
class ModelCard(FormerNames, ABC):
    """What is known of an image model before it is loaded, and how it is loaded.

    Attributes:
        summary: one line for ``scalekv models``.
        weights: where its weights come from, as a person reads it.
        geometry: the shape of its cache, for one row.
        sampling: how it chooses tokens by default.
        fps: frames a second of its clips; None if it generates images.
    """

    former_names: ClassVar[Mapping[str, str]] = {"draws": "accepts"}

    summary: str = field(validator=instance_of(str))
    weights: str = field(validator=instance_of(str))
    geometry: CacheGeometry
    sampling: Sampling = field(factory=Sampling)
    fps: float | None = field(default=None, validator=optional(gt(0)))

    needs_weights: ClassVar[bool] = False
    """Whether its weights do not ship."""
    fetches: ClassVar[bool] = False
    """Whether it downloads weights that are not given, with the extra ``hub``."""
    aspects: ClassVar[tuple[str, ...]] = ("1:1",)
    """Aspect ratios of its images, width to height."""
    sizes: ClassVar[tuple[str, ...]] = ()
    """Names of the sizes of its images, the smallest first; none if there is one size only."""

    @abstractmethod
    def load(
        self,
        *,
        weights: Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        allow_nonfinite: bool = False,
    ) -> ImageModel:
        """The model, ready to generate.

        Args:
            weights: a file or folder, for models whose weights do not ship.
            device, dtype: where and how it runs.
            allow_nonfinite: accept weights and text features that hold NaN or infinity.

        Raises:
            CheckpointError: weights are missing, truncated, of another model, or not finite.
        """

    def random(self, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32) -> ImageModel:
        """The model with seeded random weights, to measure its memory and time.

        Raises:
            InputError: there is no model with random weights.
        """
        raise InputError(f"{type(self).__name__} cannot make its model with random weights (ModelCard.random)")

    @property
    def formats(self) -> tuple[WeightsFormat, ...]:
        """The formats of its published files, for ``scalekv convert``; none if its weights ship."""
        return ()

    def accepts(self, prompt: str) -> bool:
        """Whether a prompt is in this model's language.

        Without ``--model`` the command line takes the first model that ships with its weights and accepts the prompts.
        """
        return False

    @property
    def example(self) -> str:
        """A prompt to try it with."""
        return ""

    @property
    def study(self) -> Path | None:
        """File of the study of policies that ships with it; None, as here, if there is none."""
        return None

    def profiles(self, weights: Path | None = None) -> Sequence[AttentionProfile]:
        """The attention profiles that ship with it, or that are stored beside these weights; each is of one schedule.

        Raises:
            CheckpointError, ProfileError: there are no such weights, or a profile is damaged.
        """
        return ()

    def profile_of(self, schedule: ScaleSchedule, *, weights: Path | None = None) -> AttentionProfile | None:
        """Its attention profile of this schedule, whose text may have another length; None if there is none."""
        return next((profile for profile in self.profiles(weights) if profile.fits(schedule)), None)

    def rows_of(self, sampling: Sampling) -> int:
        """Sequences in the batch for each image: with guidance 2."""
        return 2 if any(sampling.strengths) else 1

    def check_sampling(self, sampling: Sampling, shape: CacheGeometry) -> None:
        """Refuses, before anything is loaded, sampling that its model does not support for images of this shape.

        Raises:
            InputError: by default, guidance anywhere else than on the logits.
        """
        sampling.check_guided_on_logits()

    def text_encoder_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the text encoder's weights; 0 if it has none."""
        return 0

    def shape(self, *, aspect: str | None = None, size: str | None = None) -> CacheGeometry:
        """The shape of its cache for images of this aspect ratio and size, one row; None is its own.

        Raises:
            InputError: it has no such shape.
        """
        self._check_offered("aspect ratio", aspect, self.aspects)
        self._check_offered("size", size, self.sizes)
        return self.geometry

    def size_bound(self, *, aspect: str | None = None, size: str | None = None) -> SizeBound | None:
        """Upper bounds of what its model takes for images of this aspect ratio and size, in any dtype; None if only a dry run
        can tell."""
        return None

    @property
    def can_be_planned(self) -> bool:
        """Whether its model can run without weights (`bare`)."""
        return type(self).bare is not ModelCard.bare

    def bare(
        self,
        *,
        aspect: str | None = None,
        size: str | None = None,
        layers: int | None = None,
        device: str | torch.device = "meta",
        dtype: torch.dtype | None = None,
    ) -> BareModel:
        """The model without its weights, to plan its memory and to measure its time.

        Args:
            aspect, size: of the images; None is its own.
            layers: how many it has; None is all.
            device: on ``meta`` it takes no memory.
            dtype: in which it runs; None is that of its geometry.

        Raises:
            InputError: it has no such shape, or its family has no model without weights.
        """
        raise InputError(f"{type(self).__name__} cannot make its model without weights (ModelCard.bare)")

    def _check_offered(self, what: str, wanted: str | None, known: Sequence[str]) -> None:
        if wanted is None or wanted in known:
            return
        if not known:
            raise InputError(f"there is only one {what}; leave it out (got {wanted!r})")
        listed = f"there are {', '.join(known)}" if len(known) > 1 else f"there is {known[0]} only"
        raise InputError(f"there is no {what} {wanted!r}; {listed}")
