"""Few cases: `make test` runs every check on one strategy of each kind, `make test-all` on all of them with many cases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("few", settings.get_profile("dev"), max_examples=4, stateful_step_count=12)


@pytest.fixture(autouse=True)
def few_examples(request: pytest.FixtureRequest) -> Iterator[None]:
    """Four cases per check, except in the thorough suite."""
    if settings().max_examples != settings.get_profile("dev").max_examples or request.node.get_closest_marker(
        "thorough"
    ):
        yield
        return
    settings.load_profile("few")
    yield
    settings.load_profile("dev")
