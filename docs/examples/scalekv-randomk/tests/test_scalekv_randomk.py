"""The promises of scalekv, kept by the selector and the policy of this plugin."""

from scalekv_core.testing import parametrize_with_checks

from scalekv_randomk import RandomkSelector, policy


@parametrize_with_checks({"selector randomk": RandomkSelector, "policy randomk": policy})
def test_keeps_its_promises(make, check):
    check(make)
