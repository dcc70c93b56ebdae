"""A published InfinityStar: the shapes and settings that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scalekv_adapters.infinitystar.generation import Clips, InfinityStar
from scalekv_adapters.infinitystar.guidance import Preset, strengths_of
from scalekv_adapters.infinitystar.model import InfinityStarImageModel
from scalekv_adapters.infinitystar.pyramids import Pyramids
from scalekv_adapters.infinitystar.templates import (
    INTERACTIVE,
    RATIOS,
    SECONDS,
    SETTINGS,
    is_interactive,
    published,
    size_of,
)
from scalekv_core.errors import InputError, unknown_name
from scalekv_core.models.sampling import Sampling
from scalekv_core.shapes.schedule import ScaleSchedule

ASPECT, SIZE = "16:9", "480p-5s"
"""The shape of a clip unless another one is asked for."""
TEXT_TOKENS = 64
"""Text tokens that a plan expects of a prompt: some sentences."""
SAMPLING = Sampling(guidance=34.0)
"""The published guidance of images and clips."""
PRESETS = {INTERACTIVE: Preset(first=0.5, later=0.5)}
"""Presets of the settings that differ; the guidance of interactive clips is 3."""
PRESET = Preset(first=1.0, later=0.4, threshold=0.05)
ENDING = ", Close-up on big objects, emphasize scale and detail"
"""What the published runs put behind every prompt of a clip that follows no other."""


def pyramids_of(aspect: str | None, size: str | None) -> Pyramids:
    """What a clip of this aspect ratio (width:height) and setting passes; None is the default.

    Raises:
        UnknownName: there is no such aspect ratio or setting.
    """
    aspect = aspect or ASPECT
    if aspect not in RATIOS:
        raise unknown_name("aspect ratio of InfinityStar", aspect, RATIOS)
    return published(size or SIZE, RATIOS[aspect])


def preset_of(size: str | None) -> Preset:
    """Temperatures and kind of guidance of a setting."""
    return PRESETS.get(size or SIZE, PRESET)


def check_sampling(sampling: Sampling, schedule: ScaleSchedule) -> None:
    """Raises InputError where guidance does not fit, or a clip follows others: a prompt does not tell what it follows."""
    maps = schedule.without_prefix.maps
    if is_interactive(schedule):
        raise InputError(
            f"{INTERACTIVE} continues a clip that a prompt does not give; scalekv plan and bench know it, and in Python "
            "InfinityStar.generate(story=...) generates it"
        )
    strengths_of(sampling, len(maps))


class PublishedInfinityStar(InfinityStarImageModel):
    """An InfinityStar in any of its published settings.

    Args:
        name, star, *given, **named: as `InfinityStarImageModel`, but for the preset, which follows the setting.
        trained_for: the size that its weights were trained for, "480p" or "720p"; None for any.
    """

    def __init__(
        self, name: str, star: InfinityStar, *given: Any, trained_for: str | None = None, **named: Any
    ) -> None:
        self.trained_for = trained_for
        star.pyramids, star.text_tokens = pyramids_of(None, None), TEXT_TOKENS
        super().__init__(name, star, *given, preset=PRESET, **named)
        self.aspect, self.size = ASPECT, SIZE

    def set_shape(self, *, aspect: str | None = None, size: str | None = None) -> None:
        aspect, size = aspect or self.aspect, size or self.size
        pyramids = pyramids_of(aspect, size)
        self.check_trained_for(size)
        self.aspect, self.size = aspect, size
        self.star.pyramids, self.star.text_tokens = pyramids, TEXT_TOKENS
        self.preset = preset_of(size)
        self._take_shape()

    def check_trained_for(self, setting: str | None) -> None:
        """Raises InputError if its weights were trained for another size than that of the setting."""
        size = size_of(setting or SIZE)
        if self.trained_for not in (None, size):
            fitting = ", ".join(each for each in SETTINGS if size_of(each) == self.trained_for)
            raise InputError(
                f"the weights of model {self.name!r} were trained for {self.trained_for}, {setting} needs those for {size}; "
                f"with these, --size is one of {fitting}"
            )

    def asked(self, prompt: str) -> str:
        return f"<<<t={SECONDS.get(self.size or SIZE, 5)}s>>>{prompt}{ENDING}"

    def batch(self, prompts: Sequence[str], sampling: Sampling, negative_prompt: str) -> Clips:
        self.check_trained_for(self.size)
        check_sampling(sampling, self.schedule)
        return super().batch(prompts, sampling, negative_prompt)
