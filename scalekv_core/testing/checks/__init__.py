"""The promises: one module per kind of strategy, one plain function per promise, callable by hand on one case.

A check takes a factory and, mostly, a case. It returns if the promise is kept, raises AssertionError with a sentence if
it is broken, and NotApplicable where the case does not bear on it. Nothing here needs Hypothesis or pytest.

>>> from scalekv_core.testing.cases import ViewCase
>>> from scalekv_core.testing.toy import Latest
>>> selectors.check_indices_ascend(Latest, ViewCase.parse("maps=1x1,2x3,1x1 scale=1 keep=4"))
"""

from scalekv_core.testing.checks import (
    adapters,
    allocators,
    claims,
    classifiers,
    codecs,
    mergers,
    metrics,
    models,
    policies,
    selectors,
)
from scalekv_core.testing.common import NotApplicable

__all__ = [
    "NotApplicable",
    "adapters",
    "allocators",
    "claims",
    "classifiers",
    "codecs",
    "mergers",
    "metrics",
    "models",
    "policies",
    "selectors",
]
