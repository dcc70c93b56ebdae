"""The checks: one module or a few per kind of strategy, one plain function per check, callable by hand on one case.

A check takes a factory and, mostly, a case. It returns if all is well, raises AssertionError with a sentence if not,
and NotApplicable where the case does not bear on it. Nothing here needs Hypothesis or pytest.

>>> from scalekv_core.testing.cases import ViewCase
>>> from scalekv_core.testing.toy import Latest
>>> selectors.check_indices_ascend(Latest, ViewCase.parse("maps=1x1,2x3,1x1 scale=1 keep=4"))
"""

from scalekv_core.testing.checks import (
    adapters,
    adapters_attached,
    adapters_failing,
    allocators,
    claims,
    classifiers,
    codecs,
    codecs_apart,
    mergers,
    metrics,
    models,
    policies,
    policies_apart,
    policies_cached,
    reads,
    selectors,
    viewers,
    viewers_cost,
)
from scalekv_core.testing.common import NotApplicable

__all__ = [
    "NotApplicable",
    "adapters",
    "adapters_attached",
    "adapters_failing",
    "allocators",
    "claims",
    "classifiers",
    "codecs",
    "codecs_apart",
    "mergers",
    "metrics",
    "models",
    "policies",
    "policies_apart",
    "policies_cached",
    "reads",
    "selectors",
    "viewers",
    "viewers_cost",
]
