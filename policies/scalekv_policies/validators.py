"""Checks that several policies share."""

from __future__ import annotations

from typing import Any

from attrs import Attribute

from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import ProfileError


def is_odd(instance: Any, attribute: Attribute[int], value: int) -> None:
    """Refuses an even number: a pooling window needs a middle."""
    if value % 2 != 1:
        raise ValueError(f"{attribute.name!r} must be odd; got {value}")


def needed(profile: AttentionProfile | None, classifier: str) -> AttentionProfile:
    """The profile; ProfileError if the classifier is given none."""
    if profile is None:
        raise ProfileError(f"classifier {classifier!r} needs an attention profile; make one with: scalekv calibrate")
    return profile
