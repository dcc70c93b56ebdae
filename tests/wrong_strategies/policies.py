"""Wrong policies: right parts that do not fit together, or one wrong part among right ones."""

from __future__ import annotations

from scalekv_core import Policy
from scalekv_core.testing.toy import Even, Latest
from tests.wrong_strategies import plans, selectors, storage
from tests.wrong_strategies.catalogue import fails


def policy(**parts):
    """A policy that is right in everything else."""
    return Policy(**{"name": "wrong", "allocator": Even(), "selector": Latest(), **parts})


@fails("plans_within_its_budget")
def spends_too_much():
    """Its allocator gives out more than there is."""
    return policy(allocator=plans.OneTokenMore())


@fails("answers_are_accepted")
def keeps_unsorted():
    """Its selector returns the best token first."""
    return policy(selector=selectors.BestFirst())


@fails("answers_are_accepted")
def moves_kept_tokens():
    """Its merger folds kept tokens into others."""
    return policy(merger=storage.IntoTheNext())


@fails("holds_what_was_planned")
def weighs_more():
    """Its codec counts fewer bytes than it holds."""
    return policy(codec=storage.ForgetsRanges())


@fails("kept_tokens_are_the_originals")
def clips():
    """Its codec clips what lies beyond the range of the first map."""
    return policy(codec=storage.ClipsLater())


@fails("kept_tokens_are_the_originals")
def changes_keys():
    """Its selector normalises the keys where they are."""
    return policy(selector=selectors.NormalisesInPlace())


@fails("counts_add_up")
def loses_counts():
    """Its merger drops tokens and does not say so."""
    return policy(merger=storage.LosesTheDistant())


@fails("the_whole_budget_is_lossless")
def never_everything():
    """Its allocator drops a token even where the budget holds all."""
    return policy(allocator=plans.NeverEverything())


@fails("remembers_nothing")
def remembers():
    """Its selector chooses by what it saw before."""
    return policy(selector=selectors.FirstImage())


@fails("ignores_global_randomness")
def throws_dice():
    """Its selector uses the global generator."""
    return policy(selector=selectors.GlobalDice())


@fails("repeats_itself")
def changes_its_mind():
    """Its selector shuffles another way at every call."""
    return policy(selector=selectors.EveryCall())


@fails("rows_permute")
def first_row_decides():
    """Its selector uses the scores of the first row for all."""
    return policy(selector=selectors.FirstRow())


@fails("leaves_its_input_alone")
def halves_queries():
    """Its selector halves the model's queries where they are."""
    return policy(selector=selectors.HalvesQueries())


@fails("rows_are_apart")
def averages_rows():
    """Its selector averages over the batch."""
    return policy(selector=selectors.OtherRows())


@fails("is_a_value")
def holds_a_list():
    """One of its parts cannot be hashed."""
    return policy(selector=selectors.HoldsAList())


@fails("outputs_are_numbers")
def divides_by_nothing():
    """Its codec divides by a range that may be zero."""
    return policy(codec=storage.NoRange())
