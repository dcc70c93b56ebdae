"""AttentionProfile: checked when made, saved as data only, and read back whole or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from safetensors.numpy import load_file, save_file

from scalekv_core import AttentionProfile, CacheGeometry, ProfileError, ScaleSchedule

SCHEDULE = ScaleSchedule([(1, 1), (2, 3), (2, 2, 3)])
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=2, heads=3, head_dim=4)


def made(**changes: Any) -> AttentionProfile:
    mass = np.tril(np.random.default_rng(0).random((2, 3, 3, 3), dtype=np.float32)).transpose(2, 0, 1, 3)
    mass /= mass.sum(axis=3, keepdims=True)
    share = np.random.default_rng(1).random((3, 2, 3, 2), dtype=np.float32)
    values = {"model": "toy", "schedule": SCHEDULE, "mass": mass, "fractions": (0.1, 0.5), "top_share": share}
    return AttentionProfile(**{**values, "provenance": {"prompts": "3, 5", "note": "é ✓"}, **changes})


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    """Every number bit by bit, the schedule, the fractions and the provenance."""
    profile = made()
    profile.save(tmp_path / "a.safetensors")
    again = AttentionProfile.load(tmp_path / "a.safetensors")

    assert np.array_equal(profile.mass, again.mass)
    assert np.array_equal(profile.top_share, again.top_share)
    assert (profile.model, profile.schedule, profile.fractions, dict(profile.provenance)) == (
        again.model,
        again.schedule,
        again.fractions,
        dict(again.provenance),
    )
    again.check_fits(GEOMETRY, "toy")


def test_further_measures_come_back_or_are_named(tmp_path: Path) -> None:
    """A profile of an older version lacks them: who asks is told the command that measures them."""
    entropy, variance = np.random.default_rng(2).random((2, 3, 2, 3), dtype=np.float32)
    made(entropy=entropy, column_variance=variance).save(tmp_path / "a.safetensors")
    again = AttentionProfile.load(tmp_path / "a.safetensors")

    assert np.array_equal(entropy, again.measured("entropy"))
    assert np.array_equal(variance, again.measured("column_variance"))
    with pytest.raises(ProfileError, match=r"'toy' has no column variance.*scalekv calibrate --model toy"):
        made(entropy=entropy).measured("column_variance")
    with pytest.raises(ProfileError, match=r"entropy is \[K, L, H\] = \(3, 2, 3\); got shape \(3, 2\)"):
        made(entropy=entropy[..., 0])


def test_arrays_that_lie_otherwise_in_memory_are_saved_right(tmp_path: Path) -> None:
    """A transposed array is saved correctly, although safetensors writes memory as it is."""
    profile = made()
    turned = evolve(profile, mass=np.asfortranarray(profile.mass))
    turned.save(tmp_path / "a.safetensors")

    assert np.array_equal(profile.mass, AttentionProfile.load(str(tmp_path / "a.safetensors")).mass)


def test_current_mass_is_the_diagonal() -> None:
    """current_mass is the attention of each scale to its own map."""
    profile = made()

    assert np.array_equal(np.stack([profile.mass[k, :, :, k] for k in range(3)]), profile.current_mass)


def test_a_measured_fraction_is_found() -> None:
    """A fraction is found up to rounding; another one is refused with those measured."""
    profile = made()

    assert np.array_equal(profile.top_share[..., 1], profile.top_share_at(0.5))
    assert np.array_equal(profile.top_share[..., 0], profile.top_share_at(0.1 + 1e-12))
    with pytest.raises(
        ProfileError, match=r"profile of 'toy' has no concentration for 0\.2 of the history; it has 0\.1, 0\.5"
    ):
        profile.top_share_at(0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mass": np.zeros((3, 2, 3), dtype=np.float32)}, r"mass is \[K=3, L, H, K=3\]; got shape \(3, 2, 3\)"),
        ({"mass": np.zeros((2, 2, 3, 3), dtype=np.float32)}, "attention mass is"),
        ({"mass": np.zeros((3, 2, 3, 2), dtype=np.float32)}, "attention mass is"),
        ({"schedule": ScaleSchedule([(1, 1)])}, "K=1"),
        ({"top_share": np.zeros((3, 2, 3, 3), dtype=np.float32)}, r"top_share is \[K, L, H, F=2\]"),
        ({"fractions": (0.1,)}, "F=1"),
        ({"mass": np.full((3, 2, 3, 3), np.nan, dtype=np.float32)}, "not finite"),
        ({"top_share": np.full((3, 2, 3, 2), np.inf, dtype=np.float32)}, "not finite"),
    ],
)
def test_what_is_no_profile_cannot_be_made(changes: dict[str, Any], message: str) -> None:
    """Wrong shapes, NaN and infinity are refused."""
    with pytest.raises(ProfileError, match=message):
        made(**changes)


def header_of(profile: AttentionProfile, **changes: Any) -> dict[str, Any]:
    header = {"model": profile.model, "maps": profile.schedule.maps, "fractions": profile.fractions, "provenance": {}}
    return {**header, **changes}


FOREIGN: dict[str, Any] = {
    "no header": None,
    "another header": {"format": "pt"},
    "header that is no json": {"scalekv_profile": "{"},
    "header that is a list": {"scalekv_profile": "[]"},
    "header without a model": {"scalekv_profile": json.dumps({"maps": [[1, 1]]})},
    "maps that are none": {"scalekv_profile": json.dumps(header_of(made(), maps=[[0, 1], [1], [2, 2]]))},
    "maps that are text": {"scalekv_profile": json.dumps(header_of(made(), maps="123"))},
    "other maps": {"scalekv_profile": json.dumps(header_of(made(), maps=[[1, 1]]))},
    "fractions that are none": {"scalekv_profile": json.dumps(header_of(made(), fractions=None))},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_safetensors_file_is_refused(kind: str, tmp_path: Path) -> None:
    """A file with another header is refused, also with the right tensors."""
    profile = made()
    path = tmp_path / "foreign.safetensors"
    save_file({"mass": profile.mass.copy(), "top_share": profile.top_share.copy()}, str(path), metadata=FOREIGN[kind])

    with pytest.raises(ProfileError) as refusal:
        AttentionProfile.load(path)
    assert str(path) in str(refusal.value)
    assert 1 == len(str(refusal.value).splitlines())


def test_a_file_without_the_tensors_is_refused(tmp_path: Path) -> None:
    """A file with the right header and no tensors is refused."""
    path = tmp_path / "empty.safetensors"
    save_file({"weight": np.zeros(3)}, str(path), metadata={"scalekv_profile": json.dumps(header_of(made()))})

    with pytest.raises(ProfileError, match="is not a profile that scalekv calibrate wrote"):
        AttentionProfile.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\xff" * 100, b"{}", b"\x00" * 8], ids=repr)
def test_a_file_that_is_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    """Nothing in the file is executed, and the error names it."""
    path = tmp_path / "profile.safetensors"
    path.write_bytes(content)

    with pytest.raises(ProfileError, match=r"profile\.safetensors is not a profile"):
        AttentionProfile.load(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(kept: float, tmp_path: Path) -> None:
    """A file that ends at any byte before its end is refused."""
    path = tmp_path / "profile.safetensors"
    made().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])

    with pytest.raises(ProfileError, match="is not a profile"):
        AttentionProfile.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    """The error gives the path."""
    for path in (tmp_path / "nowhere.safetensors", tmp_path):
        with pytest.raises(ProfileError, match="is not a profile"):
            AttentionProfile.load(path)


def test_a_file_holds_nothing_but_two_arrays_and_a_header(tmp_path: Path) -> None:
    """Anyone can read it without scalekv."""
    path = tmp_path / "profile.safetensors"
    made().save(path)

    assert {"mass", "top_share"} == set(load_file(path))


def test_a_profile_fits_its_own_model_only() -> None:
    """By name, shape and schedule; a name that is not known is not compared."""
    profile = made()
    profile.check_fits(GEOMETRY)
    profile.check_fits(GEOMETRY, "toy")
    for geometry, model, message in (
        (GEOMETRY, "other", "was measured on 'toy', the model is 'other'"),
        (evolve(GEOMETRY, layers=4), None, "2 layers x 3 heads, the model has 4 x 3"),
        (evolve(GEOMETRY, heads=4), "toy", "2 layers x 3 heads, the model has 2 x 4"),
        (
            evolve(GEOMETRY, schedule=ScaleSchedule([(1, 1), (3, 2), (2, 2, 3)])),
            "toy",
            "1x1 2x3 2x2x3, the image has 1x1 3x2 2x2x3",
        ),
    ):
        with pytest.raises(ProfileError, match=message):
            profile.check_fits(geometry, model)


def test_a_text_of_another_length_has_the_same_profile() -> None:
    """A profile is of the maps behind it; other maps, or none in front, are others."""
    maps = [(1, 1), (2, 3), (2, 2, 3)]
    profile = made(schedule=ScaleSchedule([(1, 5), *maps[1:]], prefix=True))
    fitting = ScaleSchedule([(1, 9), *maps[1:]], prefix=True)
    profile.check_fits(evolve(GEOMETRY, schedule=fitting))
    for other in (ScaleSchedule(maps[1:]), ScaleSchedule([(1, 9), *maps[1:2]], prefix=True)):
        with pytest.raises(ProfileError, match="was measured with maps"):
            profile.check_fits(evolve(GEOMETRY, schedule=other))
