"""The studies that ship with the small models: complete, of their protocols, and of the weights that ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv_core import load_model
from scalekv_core.compare.compact import located
from scalekv_core.compare.environment import fingerprint
from scalekv_core.compare.leaderboard import check_protocol, submissions
from scalekv_core.compare.recommendation import needed, recommend
from scalekv_core.compare.results import results_of
from scalekv_core.compare.store import Store
from scalekv_core.plugins.registry import Registry

PROTOCOLS = Path(__file__).parents[2] / "docs" / "protocols"
MODELS = ("var-tiny", "infinity-tiny")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.installed(["scalekv-policies", "scalekv-adapters", "scalekv-metrics"])


@pytest.mark.parametrize("model", MODELS)
def test_it_is_complete(model: str, registry: Registry) -> None:
    """All policies at five budgets with three codecs; no image is missing, none failed, and figures by scale are there."""
    store = Store.open(located(Path(model), registry))
    (results,) = results_of(store, registry)
    policies = store.question["policies"]

    measured = [row for row in results.rows if not row.refused]

    assert {*registry.names("policy")} - {"scalekv-reference"} == {*policies}
    assert (len(policies) - 1) * 5 * 3 + 3 == len(results.rows)
    assert {"heatkv"} >= {row.policy for row in results.rows if row.refused}  # it needs more than the least budgets
    assert {len(results.images)} == {row.done for row in measured}
    assert not any(row.failed for row in measured)
    assert all(row.scales["forced-kl"][0] == 0 for row in measured)


@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_first_entry_of_its_leaderboard(model: str, registry: Registry) -> None:
    """It asked what the protocol says, of the weights that ship; nothing in it says on whose machine."""
    (found,) = submissions([Path(model)], registry)
    check_protocol([found], PROTOCOLS / f"{model}.toml")

    assert {model: fingerprint(load_model(model).module)} == found.store.environment["weights"]
    assert [("",)] == found.store.rows("SELECT DISTINCT worker FROM cell")
    assert 3 << 20 > located(Path(model), registry).stat().st_size


@pytest.mark.parametrize("model", MODELS)
def test_it_recommends(model: str, registry: Registry) -> None:
    """What fits, and less of it for less memory."""
    (results,) = results_of(Store.open(located(Path(model), registry)), registry)
    most = max(needed(row) for row in results.rows)
    found = recommend(results, most, "forced-kl")

    assert "full dense" == found.best.label
    assert found.half is not None
    assert needed(found.half) <= most // 2
