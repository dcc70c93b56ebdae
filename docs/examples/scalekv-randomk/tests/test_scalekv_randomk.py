"""Runs every check of scalekv on the policy and the selector of this plugin, which has to be installed."""

from scalekv_core.testing import parametrize_with_checks


@parametrize_with_checks(["randomk"])
def test_passes_the_checks(check):
    check()
