"""A loaded image model, and what it generates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from attrs import frozen
from torch import Tensor, nn

from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.models.former_names import FormerNames
from scalekv_core.models.frames import as_clips, is_clip
from scalekv_core.models.parts import Parts
from scalekv_core.models.requests import Seeds, check_prompts, check_seeds
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.steps import OnScale
from scalekv_core.shapes.schedule import ScaleSchedule


@frozen(eq=False, kw_only=True)
class Generation:
    """What a model generated for a batch of B images, or of B clips.

    Attributes:
        images: (B, 3, H, W) in [0, 1]; of a model of clips (B, 3, F, H, W) with all F frames.
        tokens: per scale (B, n) or (B, n, bits): what the image was decoded from.
        choices: the same shapes: what the model itself chose; differs from ``tokens`` only where tokens were forced.
        logits: per scale (B, n, V) after guidance, if they were asked for.
    """

    images: Tensor
    tokens: tuple[Tensor, ...]
    choices: tuple[Tensor, ...]
    logits: tuple[Tensor, ...] | None = None

    @property
    def is_clip(self) -> bool:
        """Whether these are clips."""
        return is_clip(self.images)

    @property
    def frames(self) -> Tensor:
        """(B, 3, F, H, W) in [0, 1]: an image is a clip of one frame."""
        return as_clips(self.images)


class ImageModel(FormerNames, ABC):
    """A loaded model.

    Attributes:
        name: the name it was loaded by.
        module: the transformer; an adapter attaches to it.
        schedule: the maps of its images.
        sampling: its defaults, the same as its card's.
        profile: its attention profile, if one ships or was found.
        aspect, size: of its images, as last given to `set_shape`; None is the model's own.
    """

    former_names: ClassVar[Mapping[str, str]] = {"draw_on": "set_shape"}

    name: str
    module: nn.Module
    schedule: ScaleSchedule
    sampling: Sampling
    profile: AttentionProfile | None = None
    aspect: str | None = None
    size: str | None = None

    def set_shape(self, *, aspect: str | None = None, size: str | None = None) -> None:
        """Sets the aspect ratio (width:height) and the size of the images that come next; None changes nothing.

        Only for models whose card lists several.

        Raises:
            InputError: the model has no such shape.
        """
        if aspect not in (None, "1:1") or size is not None:
            raise InputError(
                f"model {self.name!r} generates square images of one size only; leave out --aspect and --size"
            )

    @property
    def parts(self) -> Parts:
        """What can take turns on the device, in the order of use; none where its family does not tell."""
        return {}

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's layers, which can be compiled one by one; none where its family does not tell."""
        return ()

    def turn(self, part: str) -> None:
        """Is called by `generate` before the text encoder and before the transformer is used; does nothing by itself."""

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Seeds,
        sampling: Sampling | None = None,
        forced: Sequence[Tensor] | None = None,
        keep_logits: bool = False,
        on_scale: OnScale | None = None,
    ) -> Generation:
        """One image (or clip) per prompt; an image depends on its own prompt and seed only, not on its batch.

        Args:
            prompts: one per image, in the model's language (digits for var-tiny, text for Infinity).
            seeds: one per image; a generator gives its next numbers.
            sampling: None means the model's defaults.
            forced: tokens of the first scales, or of all, that replace the model's choices (teacher forcing).
            keep_logits: return the logits too.
            on_scale: is called after every scale.

        Raises:
            InputError: a prompt that the model does not accept, a wrong number of seeds or of forced tokens.
            NonFiniteError: the model computed NaN or infinity.
        """

    def check_prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts as a list; InputError unless they are texts, at least one."""
        return check_prompts(self.name, prompts)

    def check_seeds(self, prompts: Sequence[str], seeds: Seeds) -> list[int]:
        """One seed per prompt, where a generator gives its next numbers; InputError if they are no seeds, or not as many."""
        return check_seeds(seeds, len(prompts), who=f"model {self.name!r}")
