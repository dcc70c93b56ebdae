"""Every promise of scalekv, checked for the policy and the selector of this plugin; it has to be installed."""

from scalekv_core.testing import parametrize_with_checks


@parametrize_with_checks(["randomk"])
def test_keeps_its_promises(check):
    check()
