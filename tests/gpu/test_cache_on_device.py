"""The cache on a device: results of the CPU, planned bytes, and no wait of the host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attrs import evolve

from scalekv_core import load_model, shared_registry
from scalekv_core.cache.kv_cache import KVCache
from scalekv_core.contracts.tables import Tables
from scalekv_core.memory.attention_dry_run import attending_bytes
from scalekv_core.memory.meter import PeakMeter
from scalekv_core.planning.assumed import assumed_profile
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.session.compress import compress
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

POLICIES = [name for name in shared_registry().names("policy") if name != "scalekv-reference"]
CODECS = [name for name in shared_registry().names("codec") if name != "dense"]
GEOMETRY = CacheGeometry(schedule=ScaleSchedule.square(1, 2, 4, 6, 8), layers=2, heads=4, head_dim=32, rows=2)
NOISE = 1e-4
"""Float32 sums in another order: largest difference of an output of attention, whose values are about 1. TF32 is off."""
AMPLIFIED = 0.02
"""Share of outputs that may differ by more where rounding codes or merging tokens amplify a difference, or a tie is broken
otherwise: one token in fifty."""
GRANULE = 512
"""Bytes that the CUDA allocator rounds up to."""


def planned_for(policy: str, geometry: CacheGeometry = GEOMETRY, **parts: str) -> Planned:
    chosen = shared_registry().policy(policy, **parts)
    profile = assumed_profile(geometry, [0]) if chosen.needs_profile else None
    return plan_policy(chosen, geometry, budget="40%" if chosen.allocator.spends_all else None, profile=profile)


def inputs(geometry: CacheGeometry) -> list[list[torch.Tensor]]:
    """q, k and v of every scale and layer, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(geometry.rows, geometry.heads, n, geometry.head_dim) for n in geometry.schedule.tokens]
    return [
        [torch.randn(3, *shape, generator=generator).to(geometry.dtype) for _ in range(geometry.layers)]
        for shape in shapes
    ]


def attend_all(
    cache: KVCache, geometry: CacheGeometry, device: torch.device, around: Any = contextlib.nullcontext
) -> Any:
    """Outputs of every attend, on the CPU."""
    outputs = []
    for scale in [[x.to(device) for x in layers] for layers in inputs(geometry)]:
        for layer, (q, k, v) in enumerate(scale):
            with around():
                out = cache.attend(layer, q, k, v, softmax_scale=0.3)
            outputs.append(out)
    return [out.float().cpu() for out in outputs]


def check_same(expected: list[torch.Tensor], actual: list[torch.Tensor], *, amplified: bool) -> None:
    differs = torch.cat([((one - other).abs() > NOISE).flatten() for one, other in zip(expected, actual, strict=True)])
    assert differs.float().mean().item() <= (AMPLIFIED if amplified else 0.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_gives_what_it_gives_on_the_cpu(device: torch.device, policy: str) -> None:
    """Outputs agree within the noise of sums; a tie between scores may be broken differently."""
    planned = planned_for(policy)
    expected, actual = (
        attend_all(KVCache(planned.plan, planned.policy), GEOMETRY, on) for on in (torch.device("cpu"), device)
    )
    check_same(expected, actual, amplified=policy != "full")


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_gives_what_it_gives_on_the_cpu(device: torch.device, codec: str) -> None:
    """Codes in host memory are copied on real streams on a GPU, and other kernels convert float8."""
    planned = planned_for("uniform", codec=codec)
    expected, actual = (
        attend_all(KVCache(planned.plan, planned.policy), GEOMETRY, on) for on in (torch.device("cpu"), device)
    )
    check_same(expected, actual, amplified=codec != "host")


@pytest.mark.parametrize("policy", POLICIES)
def test_resident_bytes_are_the_planned_bytes(device: torch.device, policy: str) -> None:
    """Resident bytes are planned bytes after every scale; on a GPU the allocator agrees up to its rounding."""
    planned = planned_for(policy)
    cache, geometry = KVCache(planned.plan, planned.policy), GEOMETRY
    for scale, layers in enumerate(inputs(geometry)):
        moved = [x.to(device) for x in layers]
        before = torch.cuda.memory_allocated(device) - cache.resident_bytes() if device.type == "cuda" else 0
        for layer, (q, k, v) in enumerate(moved):
            cache.attend(layer, q, k, v, softmax_scale=0.3)
        assert planned.footprint.planned[scale] == cache.resident_bytes()
        if device.type == "cuda" and scale:
            held = torch.cuda.memory_allocated(device) - before
            slack = (
                GRANULE * sum(1 for _ in cache.tensors()) + cache.scratch_bytes + 2 * 2**20
            )  # cuBLAS workspaces, tables
            assert cache.resident_bytes() <= held + slack
            assert held <= cache.resident_bytes() + slack


@pytest.mark.parametrize("policy", POLICIES)
def test_the_measured_peak_is_the_planned_peak(device: torch.device, policy: str) -> None:
    """The peak is the most held, the scratch and the temporary tensors of a layer's attention."""
    planned = planned_for(policy, evolve(GEOMETRY, head_dim=64))
    geometry = planned.geometry
    meter = PeakMeter(device)
    cache = KVCache(planned.plan, planned.policy)
    attend_all(cache, geometry, device, around=lambda: meter)
    outputs = geometry.token_bytes // 2 * geometry.schedule.total
    most = planned.footprint.most_planned + planned.footprint.scratch + int(attending_bytes(planned).max())
    sums = 4 * geometry.rows * geometry.heads * geometry.schedule.tokens[-1]  # that fused attention keeps
    moved = 3 * outputs if device.type == "cuda" else 0  # the allocator also sees the inputs
    tables = 2**20

    assert planned.footprint.most_planned <= meter.peak <= 1.1 * most + outputs + sums + moved + tables


@contextlib.contextmanager
def no_wait() -> Iterator[None]:
    """Any wait of the host for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("policy", "parts"), [*((p, {}) for p in POLICIES), *(("uniform", {"codec": c}) for c in CODECS)]
)
def test_no_attend_waits_for_the_device(gpu: torch.device, policy: str, parts: dict[str, str]) -> None:
    """After the first image no attend waits for the device."""
    planned = planned_for(policy, **parts)
    cache = KVCache(planned.plan, planned.policy, tables=Tables())
    attend_all(cache, GEOMETRY, gpu)
    cache.close()
    attend_all(cache, GEOMETRY, gpu, around=no_wait)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_attention_and_not_the_cache(device: torch.device, dtype: torch.dtype) -> None:
    """Tokens are stored in the dtype of the model's keys."""
    planned = planned_for("fold")
    plain, cast = (KVCache(planned.plan, planned.policy) for _ in range(2))
    expected = attend_all(plain, GEOMETRY, device)
    with torch.autocast(device.type, dtype):
        actual = attend_all(cast, GEOMETRY, device)

    assert plain.resident == cast.resident == list(planned.footprint.planned)
    for one, other in zip(expected[: GEOMETRY.layers], actual, strict=False):  # the first scale, before any choice
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.02)


def test_a_model_generates_what_it_generates_on_the_cpu(device: torch.device) -> None:
    """Greedy generation under `scalekv` gives nearly the same tokens, since ties may be broken differently."""
    tokens = []
    for on in ("cpu", str(device)):
        model = load_model("var-tiny", device=on)
        with compress(model, "scalekv", "20%"):
            generated = model.generate(["3", "8"], seeds=[0, 1], sampling=evolve(model.sampling, greedy=True))
        tokens.append(torch.cat([scale.flatten().cpu() for scale in generated.tokens]))
    assert (tokens[0] == tokens[1]).float().mean().item() >= 0.98


def test_a_compiled_model_generates_the_same(device: torch.device) -> None:
    """torch.compile breaks the graph at the cache, and images are bit-identical."""
    tokens = []
    for compiled in (False, True):
        model = load_model("var-tiny", device=str(device))
        blocks = [layer for layer in model.module.modules() if hasattr(layer, "attn")]
        for block in blocks[:2] if compiled else ():  # every block takes seconds
            block.compile(backend="eager")
        with compress(model, "uniform", "20%"):
            tokens.append(model.generate(["3"], seeds=[0]).tokens)
    assert all(torch.equal(one, other) for one, other in zip(*tokens, strict=True))


def test_layers_on_two_devices(gpu: torch.device) -> None:
    """Each layer attends on its own device."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    planned = planned_for("scalekv")
    expected = attend_all(KVCache(planned.plan, planned.policy), GEOMETRY, gpu)
    cache, actual = KVCache(planned.plan, planned.policy), []
    for layers in inputs(GEOMETRY):
        for layer, x in enumerate(layers):
            q, k, v = x.to(f"cuda:{layer % 2}")
            actual.append(cache.attend(layer, q, k, v, softmax_scale=0.3).float().cpu())
    check_same(expected, actual, amplified=True)
