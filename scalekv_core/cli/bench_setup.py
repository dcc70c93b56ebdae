"""From the options of ``scalekv bench`` to what is measured: batch, geometry, profile, contenders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalekv_core.cli import defaults
from scalekv_core.cli.bench_options import HEAD_DIM, HEADS, LAYERS, MAPS, NONE

if TYPE_CHECKING:
    from scalekv_core.bench import BenchSettings, Contender
    from scalekv_core.contracts.policy import Policy
    from scalekv_core.contracts.profile import AttentionProfile
    from scalekv_core.memory.batch import Batch
    from scalekv_core.planning.planner import Planned
    from scalekv_core.shapes.geometry import CacheGeometry


def batch_of(model: str | None, dtype: Any, images: int | None, aspect: str | None, size: str | None) -> Batch | None:
    """What the model generates at once; None if none is named.

    Raises:
        InputError: it generates no such images, or no model is named that could.
    """
    from scalekv_core.cli.installed import model_card
    from scalekv_core.errors import InputError
    from scalekv_core.memory.batch import Batch

    if model is not None:
        return Batch(model=model, card=model_card(model), images=images or 1, aspect=aspect, size=size, dtype=dtype)
    if aspect is not None or size is not None:
        raise InputError("--aspect and --size need a model; name it with --model, or give --maps")
    return None


def check_whole(drawn: Batch | None, given: Mapping[str, Any]) -> None:
    """Raises InputError where a whole transformer cannot be measured."""
    from scalekv_core.errors import InputError

    if drawn is None:
        raise InputError("--whole measures the transformer of a model; name it with --model (see scalekv models)")
    if wrong := [name for name in ("heads", "head_dim", "rows", "maps") if given[name] is not None]:
        option = wrong[0].replace("_", "-")
        raise InputError(f"--whole takes {option} from the model; leave out --{option}, or measure attention alone")


def geometry_of(drawn: Batch | None, dtype: Any, given: Mapping[str, Any], *, images: int) -> CacheGeometry:
    """That of the model, or of Infinity-2B with so many images, with what was given in its place."""
    import attrs
    import torch

    from scalekv_core.bench import parse_maps
    from scalekv_core.shapes.geometry import CacheGeometry

    if drawn is not None:
        base = drawn.geometry
    else:
        base = CacheGeometry(
            schedule=parse_maps(MAPS), layers=LAYERS, heads=HEADS, head_dim=HEAD_DIM, unmodified_key_dtype=torch.float32,
            rows=2 * images,
        )  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    if "maps" in changes:
        changes["schedule"] = parse_maps(changes.pop("maps"))
    return attrs.evolve(base, dtype=dtype, **changes)


def profile_of(
    measured: AttentionProfile | None, geometry: CacheGeometry, drafters: str | None
) -> tuple[AttentionProfile, str]:
    """(profile, where it is from) for the policies that need one.

    Raises:
        InputError: both or neither can be meant, or the list is none of layers.
    """
    from scalekv_core.bench import assumed_profile, default_drafters
    from scalekv_core.errors import InputError

    if measured is not None:
        if drafters is not None:
            raise InputError("--drafters replaces --profile; give one of them")
        return measured, f"measured on {measured.model}"
    try:
        layers = default_drafters(geometry.layers) if drafters is None else tuple(map(int, drafters.split(",")))
    except ValueError as error:
        raise InputError(f"--drafters needs layers such as 0,16; got {drafters!r}") from error
    return assumed_profile(geometry, layers), f"assumed, not measured: drafters {','.join(map(str, layers))}"


def contenders_of(
    settings: BenchSettings,
    policies: Sequence[tuple[Policy, str | None]],
    profile: AttentionProfile,
    released: str | None,
) -> list[Contender]:
    """The unmodified cache, the policies, and the stand-in for the released code.

    Raises:
        BudgetError, ProfileError, ContractError: as :func:`~scalekv_core.planning.planner.plan_policy`.
        InputError: the stand-in is to follow a policy that is not there.
    """
    from scalekv_core.bench import PolicyContender, ReleasedCode, Unmodified
    from scalekv_core.cache.prefetch import reads_ahead
    from scalekv_core.planning.planner import plan_policy

    planned = [
        plan_policy(
            one,
            settings.geometry,
            budget=spent,
            profile=profile,
            ahead=reads_ahead(one.codec, settings.device),
        )
        for one, spent in policies
    ]
    every = settings.every_layer
    followed = followed_by_released(planned, released)
    return [
        Unmodified.of(settings.geometry, every_layer=every),
        *(PolicyContender.of(one, every_layer=every) for one in planned),
        *(ReleasedCode.of(one, every_layer=every) for one in followed),
    ]


def followed_by_released(planned: Sequence[Planned], released: str | None) -> list[Planned]:
    """The plan that the stand-in follows, or nothing."""
    from scalekv_core.errors import InputError

    found = [one for one in planned if one.policy.name.split(" ")[0] == (released or defaults.POLICY)]
    if released not in (None, NONE) and not found:
        raise InputError(f"--released {released} follows a policy that is not measured; add --policy {released}")
    return found


def needs_profile(contenders: Sequence[Contender]) -> bool:
    """Whether a policy among them needs a profile."""
    return any(one.planned is not None and one.planned.policy.needs_profile for one in contenders)
