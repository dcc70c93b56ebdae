"""The attention profiles of one model: calibration measures one schedule at a time, and a model may have several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from attrs import field, frozen

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import ProfileError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

GivenProfiles: TypeAlias = "AttentionProfile | Iterable[AttentionProfile] | Mapping[str, AttentionProfile] | None"
"""What a user may pass as ``profile=``: one, several, or several by name."""


@frozen
class Profiles:
    """Attention profiles of one model, at most one for each schedule.

    Attributes:
        by_schedule: {schedule without its text: profile}; a text of any length has the same profile.
    """

    by_schedule: Mapping[ScaleSchedule, AttentionProfile] = field(factory=dict)

    @classmethod
    def of(cls, given: GivenProfiles) -> Profiles:
        """Reads what a user passed.

        Raises:
            ProfileError: something else than a profile, or two of one schedule.
        """
        if given is None:
            return cls()
        if isinstance(given, Mapping):
            given = given.values()
        elif isinstance(given, (AttentionProfile, str)) or not isinstance(given, Iterable):
            given = [given]
        by_schedule: dict[ScaleSchedule, AttentionProfile] = {}
        for profile in given:
            if not isinstance(profile, AttentionProfile):
                raise ProfileError(
                    f"profile= takes an AttentionProfile or several (AttentionProfile.load reads a file); got {profile!r}"
                )
            maps = profile.schedule.without_prefix
            if maps in by_schedule:
                raise ProfileError(f"two profiles were measured with maps {profile.schedule}; give one of them")
            by_schedule[maps] = profile
        return cls(by_schedule)

    def check(self, policy: Policy, geometry: CacheGeometry, model: str | None) -> None:
        """Refuses profiles of another model, and none at all, whatever the schedule of an image will be.

        Raises:
            ProfileError: says which command makes the right one.
        """
        if not policy.needs_profile:
            return
        if not self.by_schedule:
            raise ProfileError(
                f"policy {policy.name!r} needs an attention profile of the model; make one with: "
                f"scalekv calibrate --model {model or 'NAME'}, and give it as profile= (on the command line --profile)"
            )
        for profile in self.by_schedule.values():
            profile.check_model(geometry, model)

    def for_image(self, policy: Policy, geometry: CacheGeometry, model: str | None) -> AttentionProfile | None:
        """The profile for this geometry's schedule; None if the policy needs none.

        Raises:
            ProfileError: there is none of this schedule, or as ``check``.
        """
        if not policy.needs_profile:
            return None
        self.check(policy, geometry, model)
        maps = geometry.schedule.without_prefix
        if len(self.by_schedule) > 1 and maps not in self.by_schedule:
            raise ProfileError(
                f"no profile was measured with maps {geometry.schedule}; those given were measured with "
                f"{' and '.join(map(str, self.by_schedule))}; make one with: scalekv calibrate"
            )
        profile = self.by_schedule.get(maps) or next(iter(self.by_schedule.values()))
        profile.check_fits(geometry, model)
        return profile
