"""``with compress(model, policy, budget)``: a model that generates with a compressed cache until the block ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from scalekv_core.cache.clock import Clock
from scalekv_core.cache.kv_cache import Observer
from scalekv_core.contracts.policy import Policy
from scalekv_core.errors import InputError
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.planner import Planned
from scalekv_core.planning.profiles import GivenProfiles
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.session.attaching import attached, unwrapped
from scalekv_core.session.session import Session
from scalekv_core.shapes.values import check_flag


@contextlib.contextmanager
def compress(
    model: Any,
    policy: str | Policy | Planned = "scalekv",
    budget: str | Budget | None = None,
    *,
    profile: GivenProfiles = None,
    registry: Registry | None = None,
    check: bool = False,
    clock: Clock | None = None,
    observer: Observer | None = None,
    measure_peak: bool = False,
    **changes: Any,
) -> Iterator[Session]:
    """A session in which ``model`` generates with a compressed cache; after the block the model is exactly as before.

    Args:
        model: a model that an adapter knows, or an :class:`~scalekv_core.models.image_model.ImageModel` (then its profile is
            used unless another one is given).
        policy: a name, a value, or a plan that :func:`~scalekv_core.planning.planner.plan_policy` made for this model.
        budget: "10%" (of the history that enters the last scale), "10% of all", "650 tokens", "4GiB"; None takes the
            policy's own.
        profile: what calibration measured on this model, for one schedule or for several.
        registry: where names are looked up; the installed plugins by default.
        check: check every answer of the selector (a device sync each).
        clock: measures the stages of attention.
        observer: is shown every view and which tokens are kept.
        measure_peak: measure peak bytes: the allocator on CUDA, live storages on CPU (slower).
        **changes: of the policy, as for :meth:`Policy.named`: ``selector="h2o"``, ``window=9``, ``options={...}``.

    Raises:
        SessionError: no adapter knows the model, it is attached already, or the policy did not take effect.
        InputError: at the first map of an image, its cache is larger than what is free.
        UnknownName, InputError, BudgetError, ProfileError: what was asked cannot be done.
    """
    for option, value in (("check", check), ("measure_peak", measure_peak)):
        check_flag(value, "compress", option)
    module, name, own_profile = unwrapped(model)
    registry = registry or shared_registry()
    if not isinstance(policy, Planned):
        policy = registry.policy(policy, **changes)
    elif changes:
        raise InputError(f"a plan cannot be changed: leave out {', '.join(changes)}, or plan the changed policy")
    _, adapter = registry.adapter_for(module)
    session = Session(
        module,
        adapter,
        policy,
        budget=budget,
        profile=own_profile if profile is None else profile,
        name=name,
        check=check,
        clock=clock,
        observer=observer,
        measure_peak=measure_peak,
    )
    with attached(module, adapter, session, session.policy.name):
        yield session
    session.check_used()
