"""Whether a plan gives the selector as many tokens to keep as it needs, in all and of each source scale."""

from __future__ import annotations

import numpy as np

from scalekv_core.contracts.liveness import alive_prefix
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import selects_each_source_alone
from scalekv_core.errors import BudgetError
from scalekv_core.shapes.geometry import plural


def refuse_too_little(policy: Policy, plan: CachePlan) -> None:
    """Raises BudgetError if the plan would ask the selector for fewer tokens than it needs."""
    schedule, prefix = plan.schedule, plan.schedule.prefix
    for scale in range(prefix, len(schedule) - 1):
        if scale not in schedule.alive[scale]:
            continue  # the map is not stored, and the selector is not asked
        least = policy.selector.least(schedule.without_prefix, scale - prefix)
        _refuse_few(policy, plan, scale, least)
        if asks_for_parts(policy, plan):
            _refuse_few_of_a_source(policy, plan, scale, least)


def asks_for_parts(policy: Policy, plan: CachePlan) -> bool:
    """Whether the selector is asked about the tokens of each source scale alone.

    Then a larger budget may be refused where a smaller one works: a source scale of which nothing is kept asks for nothing.
    """
    return plan.shares is not None and selects_each_source_alone(policy.selector)


def _refuse_few(policy: Policy, plan: CachePlan, scale: int, least: int) -> None:
    text = alive_prefix(plan.schedule, scale)
    held, keepable = plan.held[scale] - text, plan.schedule.keepable()[scale] - text
    short = (held < least) & (held < keepable)
    if short.any():
        layer = int(short.any(axis=1).argmax())
        raise BudgetError(
            f"after scale {scale} a head of layer {layer} would hold {plural(int(held[layer].min()), 'token')}, and "
            f"{_needs(policy, least)}"
        )


def _refuse_few_of_a_source(policy: Policy, plan: CachePlan, scale: int, least: int) -> None:
    """A source scale of which all or nothing is kept is not asked about."""
    shares, tokens = plan.shares, plan.schedule.tokens
    assert shares is not None
    for source in plan.schedule.alive[scale]:
        if plan.schedule.prefix and source == 0:
            continue  # text, which no selector sees
        keep = shares[scale, :, :, source]
        there = tokens[scale] if source == scale else shares[scale - 1, :, :, source]
        short = (keep > 0) & (keep < np.minimum(least, there))
        if short.any():
            layer, head = np.argwhere(short)[0]
            raise BudgetError(
                f"after scale {scale} head {head} of layer {layer} would hold {plural(int(keep[layer, head]), 'token')} of "
                f"map {source}, and {_needs(policy, least)} of those it is asked about"
            )


def _needs(policy: Policy, least: int) -> str:
    return f"selector {type(policy.selector).__name__} needs at least {least}"
