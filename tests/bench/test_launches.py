"""Kernels per attend: every registered policy and codec keeps to a bound, and runs without values and without other devices.

Bounds hold on any machine, since kernels are counted on the meta device. No test looks at times.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from scalekv_core import CacheGeometry, Policy, ScaleSchedule, plan_policy, shared_registry
from scalekv_core.bench import PolicyContender, Unmodified, assumed_profile
from scalekv_core.bench.launches import TINY, KernelCounter, LaunchFigures, StageClock, measure_launches
from scalekv_core.cache.clock import STAGES
from scalekv_core.cli import bench_launches
from scalekv_policies.scalekv_reference import ONLY_FOR

SMALL, LONGER = (evolve(TINY, schedule=ScaleSchedule.square(*[1, 1, 1, 1, 2, 3] * times)) for times in (1, 2))
KEPT = 6
LOOKS_AT_NO_TENSOR, LOOKS, FOLDS = 12, 25, 45
EVICTED = {
    "ada-kv": LOOKS,
    "ams-kv": LOOKS_AT_NO_TENSOR,
    "cake": LOOKS,
    "diagonal": LOOKS_AT_NO_TENSOR,
    "sliding": LOOKS_AT_NO_TENSOR,
    "streaming": LOOKS_AT_NO_TENSOR,
    "uniform": LOOKS_AT_NO_TENSOR,
    "full": 0,
    "h2o": LOOKS,
    "heatkv": LOOKS,  # of two heads: each attends to its own maps
    "pyramidkv": LOOKS,
    "random": LOOKS,  # hashes the positions of every head anew
    "scalekv": LOOKS,
    "scalekv-reference": LOOKS,
    "snapkv": LOOKS,
    "fold": FOLDS,
}
MORE_KEPT = {"h2o": 9, "heatkv": 14}
"""Where nothing is evicted `h2o` still needs the attention weights of every map: a product, a softmax and two sums. The heads of
`heatkv` are stored apart from the first map on, so that each has its own attention."""
CODEC_KEPT, CODEC_EVICTED = 20, 30

REGISTRY = shared_registry()


class OnMetaOnly(TorchDispatchMode):
    """Raises where a tensor of another device is made or read."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_iter((args, kwargs, out)):
            assert not isinstance(x, torch.Tensor) or x.is_meta, f"{func} has a tensor on {x.device}"
        return out


@functools.cache
def figures(policy: Policy, geometry: CacheGeometry = SMALL) -> LaunchFigures:
    """The figures of all layers that differ, at the policy's budget or at 40 % of the history.

    Whole images run on the meta device, tables and all: who asks for a number fails there, and would wait on a GPU.
    """
    budget = policy.budget if policy.name in ("full", "scalekv-reference") else "40%"
    planned = plan_policy(policy, geometry, budget=budget, profile=assumed_profile(geometry, (0,)))
    with OnMetaOnly():
        return measure_launches(PolicyContender.of(planned), repeats=0)


def geometry_of(name: str) -> CacheGeometry:
    return evolve(ONLY_FOR[0][0], head_dim=8, rows=2) if name == "scalekv-reference" else SMALL


@pytest.mark.parametrize("name", REGISTRY.names("policy"))
def test_every_policy_keeps_to_its_bound(name: str) -> None:
    """Every registered policy has a bound and stays within it."""
    launched = figures(REGISTRY.policy(name), geometry_of(name))
    kept, evicted = launched.kernels("kept"), launched.kernels("evicted")

    assert kept is not None
    assert kept[1] <= MORE_KEPT.get(name, KEPT)
    assert (evicted[1] if evicted else 0) <= EVICTED[name]
    assert (evicted is None) == (name == "full")


@pytest.mark.parametrize("policy", ["uniform", "fold"])
@pytest.mark.parametrize("codec", REGISTRY.names("codec"))
def test_every_codec_keeps_to_its_bound(codec: str, policy: str) -> None:
    """A codec adds at most its bound to the launches of the policy."""
    plain, coded = figures(REGISTRY.policy(policy)), figures(REGISTRY.policy(policy, codec=codec))

    for what, bound in (("kept", CODEC_KEPT), ("evicted", CODEC_EVICTED)):
        without, with_codec = plain.kernels(what), coded.kernels(what)
        assert without is not None
        assert with_codec is not None
        assert with_codec[1] - without[1] <= (0 if codec == "dense" else bound)


@pytest.mark.parametrize(("name", "options"), [("uniform", {}), ("scalekv", {"protect": "0"}), ("fold", {})])
def test_no_number_grows_with_the_maps(name: str, options: dict[str, str]) -> None:
    """Twice as many maps have the same maximum per attend."""
    policy = REGISTRY.policy(name, codec="int4", options=options)
    short, long = (figures(policy, geometry) for geometry in (SMALL, LONGER))

    for what in ("kept", "evicted"):
        before, after = short.kernels(what), long.kernels(what)
        assert before is not None
        assert after is not None
        assert before[1] == after[1]


def test_tensors_of_other_devices_are_noticed() -> None:
    with OnMetaOnly(), pytest.raises(AssertionError, match="has a tensor on cpu"):
        torch.zeros(3)


def test_the_unmodified_cache_launches_three() -> None:
    """The unmodified cache launches two concatenations and one attention."""
    assert (1, 3) == measure_launches(Unmodified.of(TINY), repeats=0).kernels("kept")


def test_kernels_belong_to_stages() -> None:
    """Every kernel belongs to a stage, in the record as in the figures; times are measured on request."""
    planned = plan_policy(REGISTRY.policy("uniform"), SMALL, budget="40%")
    launched = measure_launches(PolicyContender.of(planned), repeats=1)

    for one in launched.attends:
        assert set(one.kernels) <= {*STAGES, "other"}
        assert one.kernels["attention"] == 1
        assert one.host_us > 0
    assert len(launched.attends) == len(launched.as_dict()["attends"]) == 6 * 2


def test_views_and_empty_tensors_are_no_kernels() -> None:
    """Views and empty tensors launch nothing; arithmetic and copies do."""
    with KernelCounter() as counter:
        x = torch.empty(4, 3).view(2, 6)[:, 1:].transpose(0, 1).unsqueeze(0)
        assert not counter.names
        x.clone().add_(1).sum()
    assert ["aten.clone.default", "aten.add_.Tensor", "aten.sum.default"] == counter.names
    assert {"other": 3} == dict(counter.kernels)


def test_a_stage_ends_where_it_began() -> None:
    clock = StageClock()
    with clock.stage(0, "select"):
        assert "select" == clock.current
    assert "other" == clock.current


def test_the_command_prints_and_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints and records the launches of the named policies under every codec, beside the unmodified cache."""
    monkeypatch.setattr(bench_launches, "REPEATS", 1)
    bench_launches.run(["streaming"], tmp_path / "launches.json")

    written = json.loads((tmp_path / "launches.json").read_text())
    codecs = [f"streaming codec={codec}" for codec in REGISTRY.names("codec") if codec != "dense"]
    assert ["unmodified", "streaming", *codecs] == [one["name"] for one in written["contenders"]]
    assert {"kept", "evicted", "last"} == {attend["what"] for attend in written["contenders"][1]["attends"]}
    assert "streaming codec=int4" in capsys.readouterr().out
