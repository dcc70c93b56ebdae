"""Wrong budget allocators and layer classifiers."""

from __future__ import annotations

import numpy as np
from attrs import field, frozen

from scalekv_core import BudgetAllocator, BudgetError, CachePlan, LayerClassifier, LayerRoles
from scalekv_core.testing.toy import Even
from tests.wrong_strategies.catalogue import fails


def spread(geometry, each):
    """A plan in which every head holds ``each`` tokens."""
    capacity = np.minimum(geometry.schedule.keepable(), each)[:, None, None]
    return CachePlan(
        geometry.schedule, np.broadcast_to(capacity, (len(capacity), geometry.layers, geometry.heads)).copy()
    )


@fails("stays_within_the_budget")
@frozen
class OneTokenMore(BudgetAllocator):
    """Rounds up."""

    def allocate(self, geometry, roles, slots):
        return spread(geometry, slots // geometry.slots_per_token + 1)


@fails("stays_within_the_budget")
@frozen
class PerLayer(BudgetAllocator):
    """Takes the budget for that of one layer."""

    def allocate(self, geometry, roles, slots):
        return spread(geometry, slots // geometry.heads)


@fails("stays_within_the_budget")
@frozen
class ForgivesRefiners(BudgetAllocator):
    """Gives refiners their share and drafters everything, on top of the budget."""

    def allocate(self, geometry, roles, slots):
        plan = spread(geometry, slots // geometry.slots_per_token)
        keepable = np.asarray(geometry.schedule.keepable())[:, None, None]
        return CachePlan(geometry.schedule, np.where(roles.labels == len(roles.names) - 1, keepable, plan.capacity))


@fails("spends_the_budget")
@frozen
class HalfOfIt(BudgetAllocator):
    """Leaves half of the budget unused."""

    def allocate(self, geometry, roles, slots):
        whole = geometry.schedule.last_history * geometry.slots_per_token
        return spread(geometry, (slots if slots >= whole else slots // 2) // geometry.slots_per_token)


@fails("spends_the_budget")
@frozen
class SquaresOnly(BudgetAllocator):
    """Counts the tokens of an h x w map as h x h."""

    def allocate(self, geometry, roles, slots):
        seen = np.cumsum([t * h * h for t, h, w in geometry.schedule])
        each = np.minimum(seen, slots // geometry.slots_per_token)
        each[-1] = 0
        shape = (len(seen), geometry.layers, geometry.heads)
        return CachePlan(geometry.schedule, np.broadcast_to(each[:, None, None], shape).copy())


@fails("the_whole_budget_keeps_everything")
@frozen
class NeverEverything(BudgetAllocator):
    """Drops a token even where the budget holds all."""

    def allocate(self, geometry, roles, slots):
        return spread(geometry, min(slots // geometry.slots_per_token, max(0, geometry.schedule.last_history - 1)))


@fails("the_whole_budget_keeps_everything")
@frozen
class RefusesTheWhole(Even):
    """Refuses a budget with which nothing would have to go."""

    def allocate(self, geometry, roles, slots):
        if slots >= geometry.schedule.last_history * geometry.slots_per_token:
            raise BudgetError("too much")
        return super().allocate(geometry, roles, slots)


@fails("plan_fits_the_model")
@frozen
class ThirteenScales(BudgetAllocator):
    """Plans for thirteen scales."""

    def allocate(self, geometry, roles, slots):
        capacity = np.zeros((13, geometry.layers, geometry.heads), dtype=int)
        return CachePlan(geometry.schedule, capacity)


@fails("plan_fits_the_model")
@frozen
class HeadsFirst(BudgetAllocator):
    """Plans [K, H, L]."""

    def allocate(self, geometry, roles, slots):
        plan = spread(geometry, slots // geometry.slots_per_token)
        return CachePlan(geometry.schedule, plan.capacity.transpose(0, 2, 1))


@fails("plan_fits_the_model")
@frozen
class ACapacity(Even):
    """Returns the array instead of the plan."""

    def allocate(self, geometry, roles, slots):
        return super().allocate(geometry, roles, slots).capacity


@fails("plan_fits_the_model")
@frozen
class QuotaAboveCapacity(Even):
    """Gives every source scale all of its tokens, whatever the head may hold."""

    def allocate(self, geometry, roles, slots):
        plan = super().allocate(geometry, roles, slots)
        tokens = np.asarray(geometry.schedule.tokens)
        quota = np.tril(np.broadcast_to(tokens, (len(tokens), len(tokens))))
        quota = np.broadcast_to(quota[:, None, None], (*plan.capacity.shape, len(tokens))).copy()
        quota[-1] = 0
        return CachePlan(geometry.schedule, plan.capacity, quota)


@fails("rows_do_not_matter")
@frozen
class PerBatch(BudgetAllocator):
    """Divides the budget by the batch once more."""

    def allocate(self, geometry, roles, slots):
        return spread(geometry, slots // geometry.slots_per_token // geometry.rows)


@fails("ignores_global_randomness")
@frozen
class DrawnByLot(BudgetAllocator):
    """Chooses at random the layer that gets less."""

    def allocate(self, geometry, roles, slots):
        plan = spread(geometry, slots // geometry.slots_per_token)
        plan.capacity[:, np.random.randint(geometry.layers)] //= 2
        return CachePlan(geometry.schedule, plan.capacity)


@fails("leaves_its_input_alone")
@frozen
class RelabelsRoles(Even):
    """Turns refiners into drafters in the roles that it is given."""

    def allocate(self, geometry, roles, slots):
        roles.labels[...] = len(roles.names) - 1
        return super().allocate(geometry, roles, slots)


_PLANS: dict[int, int] = {}


@fails("remembers_nothing")
@frozen
class LastBudget(BudgetAllocator):
    """Holds as much as the smallest budget so far."""

    def allocate(self, geometry, roles, slots):
        each = slots // geometry.slots_per_token
        previous = _PLANS.get(0, each)
        _PLANS[0] = each
        return spread(geometry, each if previous == each else max(0, each - 1))


@fails("is_a_value")
@frozen
class HoldsShares(Even):
    """Has an array as its option."""

    shares: np.ndarray = field(factory=lambda: np.ones(3), eq=False)


_ALLOCATED = [0]


@fails("repeats_itself")
@frozen
class TakesTurns(BudgetAllocator):
    """Gives less at every second call."""

    def allocate(self, geometry, roles, slots):
        _ALLOCATED[0] += 1
        return spread(geometry, max(0, slots // geometry.slots_per_token - _ALLOCATED[0] % 2))


# -- classifiers --------------------------------------------------------------------------------------------------


@fails("roles_fit_the_model")
@frozen
class LayersOnly(LayerClassifier):
    """Labels layers and forgets their heads."""

    def classify(self, profile, geometry):
        return LayerRoles(("one",), np.zeros((len(geometry.schedule), geometry.layers, 1), dtype=int))


@fails("roles_fit_the_model")
@frozen
class UnknownLabel(LayerClassifier):
    """Uses a label that has no name."""

    def classify(self, profile, geometry):
        return LayerRoles(("one",), np.ones((len(geometry.schedule), geometry.layers, geometry.heads), dtype=int))


@fails("scores_are_numbers")
@frozen
class DividesByDeviation(LayerClassifier):
    """Divides by a standard deviation that may be zero."""

    needs_profile = True

    def classify(self, profile, geometry):
        mass = profile.current_mass.astype(float)
        with np.errstate(all="ignore"):
            z = (mass - mass.mean(axis=1, keepdims=True)) / mass.std(axis=1, keepdims=True)
        return LayerRoles(("one", "other"), (z > 0).astype(int), z)


@fails("rows_do_not_matter")
@frozen
class CountsRows(LayerClassifier):
    """Gives other roles to a larger batch."""

    def classify(self, profile, geometry):
        shape = (len(geometry.schedule), geometry.layers, geometry.heads)
        return LayerRoles(("one", "other"), np.full(shape, geometry.rows % 2))


@fails("leaves_its_input_alone")
@frozen
class SortsTheProfile(LayerClassifier):
    """Sorts the profile where it is."""

    needs_profile = True

    def classify(self, profile, geometry):
        profile.mass.sort(axis=-1)
        return LayerRoles.alike("one", geometry)


def all_or_none(geometry, label):
    """The same one of two labels everywhere."""
    return LayerRoles(("one", "other"), np.full((len(geometry.schedule), geometry.layers, geometry.heads), label))


@fails("is_a_value")
@frozen
class HoldsNames(LayerClassifier):
    """Has a list as its option."""

    names: list[str] = field(factory=list)

    def classify(self, profile, geometry):
        return all_or_none(geometry, 0)


_CLASSIFIED = [0]


@fails("repeats_itself")
@frozen
class Undecided(LayerClassifier):
    """Assigns other roles from call to call."""

    def classify(self, profile, geometry):
        _CLASSIFIED[0] += 1
        return all_or_none(geometry, _CLASSIFIED[0] % 2)


@fails("remembers_nothing")
@frozen
class FirstModel(LayerClassifier):
    """Assigns other roles to every model once it has seen a second one."""

    _seen: set[int] = field(factory=set, repr=False, eq=False, init=False)

    def classify(self, profile, geometry):
        self._seen.add(geometry.layers)
        return all_or_none(geometry, int(len(self._seen) > 1))


@fails("ignores_global_randomness")
@frozen
class GuessesRoles(LayerClassifier):
    """Chooses the roles at random."""

    def classify(self, profile, geometry):
        shape = (len(geometry.schedule), geometry.layers, geometry.heads)
        return LayerRoles(("one", "other"), np.random.randint(2, size=shape))
