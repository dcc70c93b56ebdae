"""Image models that can be loaded by name: what the command line draws with, and what tutorials and tests use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import Attribute, field, frozen
from attrs.validators import instance_of
from torch import Tensor, nn

from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.models.bare_model import BareModel
from scalekv_core.models.weights.format import WeightsFormat
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

ON_LOGITS = 0
"""The place where every family applies guidance."""


def _wants(text: str, fits: Callable[[Any], bool]) -> Callable[[Any, Attribute[Any], Any], None]:
    """An attrs validator that refuses in one line what does not fit."""

    def check(instance: Any, attribute: Attribute[Any], value: Any) -> None:
        if not fits(value):
            raise InputError(f"sampling wants {attribute.name} {text}; got {value}")

    return check


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _as_strength(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _is_strength(value: Any) -> bool:
    several = value if isinstance(value, tuple) else (value,)
    return bool(several) and all(0 <= strength < inf for strength in several)


@frozen(kw_only=True)
class Sampling:
    """How tokens are drawn. Two runs are compared only if these are equal.

    Attributes:
        guidance: strength of classifier-free guidance, for all scales or one per scale; 0 draws without it.
        top_k: how many of the likeliest values compete; 0 lets all.
        top_p: how much probability they may hold; 0 lets all.
        temperature: divides the logits.
        greedy: take the likeliest value; seeds play no part.
        guidance_at: where guidance is applied, in models that know several places: 0 is on the logits, others are the
            family's own.

    Raises:
        InputError: a value is out of its range.

    >>> Sampling(top_p=1.5)
    Traceback (most recent call last):
    scalekv_core.errors.InputError: sampling wants top_p from 0 to 1 (0 lets all compete); got 1.5
    """

    guidance: float | tuple[float, ...] = field(
        default=0.0, converter=_as_strength, validator=_wants("at least 0 (0 draws without)", _is_strength)
    )
    top_k: int = field(default=0, validator=_wants("at least 0, whole (0 lets all compete)", _is_count))
    top_p: float = field(default=0.0, validator=_wants("from 0 to 1 (0 lets all compete)", lambda p: 0 <= p <= 1))
    temperature: float = field(default=1.0, validator=_wants("above 0 (see greedy)", lambda t: 0 < t < inf))
    greedy: bool = False
    guidance_at: tuple[int, ...] = field(default=(ON_LOGITS,), converter=tuple)

    @property
    def strengths(self) -> tuple[float, ...]:
        """The guidance as a list: of one number, or of one per scale."""
        return self.guidance if isinstance(self.guidance, tuple) else (self.guidance,)


@frozen(eq=False, kw_only=True)
class Generation:
    """What came out of a model for a batch of B images.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        tokens: per scale (B, n) or (B, n, bits): what the image was decoded from.
        choices: the same shapes: what the model itself chose; differs from ``tokens`` only where they were forced.
        logits: per scale (B, n, V) after guidance, if they were asked for.
    """

    images: Tensor
    tokens: tuple[Tensor, ...]
    choices: tuple[Tensor, ...]
    logits: tuple[Tensor, ...] | None = None


class ImageModel(ABC):
    """A loaded model.

    Attributes:
        name: the name it was loaded by.
        module: what attention happens in; what an adapter attaches to.
        schedule: the maps of its images.
        sampling: its defaults, as its card says.
        profile: its attention profile, if one ships or was found.
        aspect, size: what `draw_on` was given last; None is the model's own.
    """

    name: str
    module: nn.Module
    schedule: ScaleSchedule
    sampling: Sampling
    profile: AttentionProfile | None = None
    aspect: str | None = None
    size: str | None = None

    def draw_on(self, *, aspect: str | None = None, size: str | None = None) -> None:
        """From now on draws images of another aspect ratio (width:height) and size; None leaves it.

        Only for models whose card says that it draws several.

        Raises:
            InputError: it draws no such images.
        """
        if aspect not in (None, "1:1") or size is not None:
            raise InputError(f"model {self.name!r} draws square images of one size only; leave out --aspect and --size")

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: Sampling | None = None,
        forced: Sequence[Tensor] | None = None,
        keep_logits: bool = False,
    ) -> Generation:
        """One image per prompt; an image depends on its own prompt and seed only, not on its batch.

        Args:
            prompts: one per image, in the model's language (digits for var-tiny, text for Infinity).
            seeds: one per image.
            sampling: None takes the model's defaults.
            forced: tokens of every scale that take the place of the model's choices (teacher forcing).
            keep_logits: return the logits too.

        Raises:
            InputError: a prompt that the model cannot draw, a wrong number of seeds or of forced tokens.
        """

    def check_seeds(self, prompts: Sequence[str], seeds: Sequence[int]) -> None:
        """Raises InputError unless there is one seed per prompt."""
        if len(seeds) != len(prompts):
            raise InputError(f"model {self.name!r} wants one seed per prompt: {len(prompts)}; got {len(seeds)}")


@frozen(kw_only=True)
class ModelCard(ABC):
    """What is known of an image model before it is loaded, and how it is loaded.

    Attributes:
        summary: one line for ``scalekv models``.
        weights: where its weights come from, in words.
        geometry: the shape of its cache, for one row.
        sampling: how it draws unless told otherwise.
    """

    summary: str = field(validator=instance_of(str))
    weights: str = field(validator=instance_of(str))
    geometry: CacheGeometry
    sampling: Sampling = field(factory=Sampling)

    needs_weights: ClassVar[bool] = False
    """Whether its weights do not ship."""
    fetches: ClassVar[bool] = False
    """Whether it fetches weights that do not ship and are not given, by the optional dependency that is for that."""
    aspects: ClassVar[tuple[str, ...]] = ("1:1",)
    """Aspect ratios, width to height, that it draws."""
    sizes: ClassVar[tuple[str, ...]] = ()
    """Names of the sizes that it draws, the smallest first; none where it draws one only."""

    @abstractmethod
    def load(
        self, *, weights: Path | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> ImageModel:
        """The model, ready to draw.

        Raises:
            CheckpointError: weights are missing, truncated, or of another model.
        """

    def random(self, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32) -> ImageModel:
        """The model with seeded random weights, to measure its memory and time.

        Raises:
            InputError: it cannot be had with random weights.
        """
        raise InputError(f"{type(self).__name__} does not say how to make its model with random weights")

    @property
    def formats(self) -> tuple[WeightsFormat, ...]:
        """What its weights look like in published files, for ``scalekv convert``; nothing if they ship."""
        return ()

    def draws(self, prompt: str) -> bool:
        """Whether a prompt is in this model's language; the first model that ships with weights and draws a prompt is
        the one that the command line takes for it."""
        return False

    @property
    def example(self) -> str:
        """A prompt that shows the model."""
        return ""

    def profiles(self, weights: Path | None = None) -> Sequence[AttentionProfile]:
        """The attention profiles that ship with it, or that lie beside these weights; each is of one schedule.

        Raises:
            CheckpointError, ProfileError: there are no such weights, or a profile is damaged.
        """
        return ()

    def profile_of(self, schedule: ScaleSchedule, *, weights: Path | None = None) -> AttentionProfile | None:
        """That of its attention profiles which is of this schedule; None if there is none."""
        return next((profile for profile in self.profiles(weights) if profile.schedule == schedule), None)

    def rows_of(self, sampling: Sampling) -> int:
        """Sequences in the batch for each image: with guidance 2."""
        return 2 if any(sampling.strengths) else 1

    def check_sampling(self, sampling: Sampling, shape: CacheGeometry) -> None:
        """Refuses, before anything is loaded, what its model cannot draw images of this shape with.

        Raises:
            InputError: here, guidance at another place than the logits.
        """
        if sampling.guidance_at != (ON_LOGITS,):
            raise InputError(
                f"the model applies guidance on the logits (0) and nowhere else; got {in_words(sampling.guidance_at)}"
            )

    def text_encoder_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the weights that turn a prompt into features, if it has any."""
        return 0

    def shape(self, *, aspect: str | None = None, size: str | None = None) -> CacheGeometry:
        """The shape of its cache for images of this aspect ratio and size, one row; None is its own.

        Raises:
            InputError: it draws no such images.
        """
        self._check_drawn("aspect ratio", aspect, self.aspects)
        self._check_drawn("size", size, self.sizes)
        return self.geometry

    @property
    def can_be_planned(self) -> bool:
        """Whether it says how its model runs without weights."""
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
            dtype: in which it is run; None is that of its geometry.

        Raises:
            InputError: it draws no such images, or its family does not say how it runs without weights.
        """
        raise InputError(f"{type(self).__name__} does not say how its model runs without weights (ModelCard.bare)")

    def _check_drawn(self, what: str, wanted: str | None, known: Sequence[str]) -> None:
        if wanted is None or wanted in known:
            return
        if not known:
            raise InputError(f"there is one {what} only; leave it out (got {wanted!r})")
        listed = f"there are {', '.join(known)}" if len(known) > 1 else f"there is {known[0]} only"
        raise InputError(f"there is no {what} {wanted!r}; {listed}")


def in_words(places: Sequence[int]) -> str:
    """Numbers as a person writes them.

    >>> in_words((0, -5))
    '0,-5'
    """
    return ",".join(map(str, places))
