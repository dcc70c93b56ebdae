"""What only a GPU can show: ``make gpu`` runs this on a machine with a CUDA device.

It runs the tests marked ``cuda``, measures attention of Infinity-2B and 8B in bfloat16 with ``scalekv bench``, measures the host's
time per ``attend`` with and without CUDA graphs, keeps the records in docs/data/gpu, and writes the table of docs/performance.md.

With ``--device cpu`` the same runs at a small size, so that the script is known to work; then records go to build/gpu and the page
stays as it is. Without a device it says so in one line, and that is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from scalekv_core import shared_registry
from scalekv_core.cache.kv_cache import KVCache
from scalekv_core.cli import main as scalekv
from scalekv_core.contracts.tables import Tables
from scalekv_core.planning.assumed import assumed_profile, default_drafters
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.shapes.geometry import CacheGeometry, format_bytes
from scalekv_core.shapes.schedule import ScaleSchedule

ROOT = Path(__file__).parents[1]
RECORDS, PAGE = ROOT / "docs" / "data" / "gpu", ROOT / "docs" / "performance.md"
POLICIES = ("full", "uniform", "snapkv", "h2o", "scalekv", "fold")
MODELS, BATCHES = ("infinity-2b", "infinity-8b"), (1, 8)
SMALL = ("--layers", "3", "--heads", "2", "--head-dim", "16", "--maps", "1,2,4,6,8", "--repeats", "2", "--stages", "1")
SMALL_GEOMETRY = CacheGeometry(schedule=ScaleSchedule.square(1, 2, 4, 6), layers=3, heads=2, head_dim=16, rows=2)
IMAGES = 5
BLOCK = re.compile(r"(<!-- gpu -->\n).*?(<!-- end of gpu -->)", re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Everything; the exit code."""
    asked = _arguments(arguments)
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("make gpu: torch sees no CUDA device here; nothing was measured (--device cpu tries the script)")
        return 0
    small = device.type != "cuda"
    out = asked.out or (ROOT / "build" / "gpu" if small else RECORDS)
    out.mkdir(parents=True, exist_ok=True)
    if not asked.no_tests and (failed := _tests(device)):
        return failed
    for name, arguments_of_one in _measurements(device, small=small):
        _bench(arguments_of_one, out / f"{name}.json")
    record = {"device": _name(device), "torch": torch.__version__, "attend": attend_times(device, small=small)}
    (out / "attend.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    page = table(out)
    print(page)
    if not small:
        PAGE.write_text(BLOCK.sub(lambda found: found[1] + page + found[2], PAGE.read_text("utf-8")), encoding="utf-8")
    return 0


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Test and measure scalekv on a device.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="where records go")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    return parser.parse_args(given)


def _tests(device: torch.device) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", str(ROOT / "tests" / "gpu")]
    environment = {**os.environ, "SCALEKV_TEST_DEVICE": str(device)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _measurements(device: torch.device, *, small: bool) -> list[tuple[str, list[str]]]:
    """(name of the record, arguments of ``scalekv bench``)."""
    policies = [part for name in POLICIES for part in ("--policy", name)]
    common = ["bench", *policies, "--device", str(device)]
    if small:
        return [("small", [*common, *SMALL])]
    return [
        (f"{model}-batch{batch}", [*common, "--model", model, "--batch", str(batch), "--dtype", "bfloat16"])
        for model in MODELS
        for batch in BATCHES
    ]


def _bench(arguments: Sequence[str], record: Path) -> None:
    try:
        scalekv([*arguments, "--json", str(record)])
    except SystemExit as ended:
        if ended.code:
            raise


# -- the host's time ----------------------------------------------------------------------------------------------------------


def attend_times(device: torch.device, *, small: bool) -> dict[str, Any]:
    """{policy: microseconds per attend}: of the host, of the image, and of the image as a replayed CUDA graph."""
    geometry = SMALL_GEOMETRY if small else shared_registry().make("model", MODELS[0]).geometry.for_rows(2)
    return {name: _attend_times(name, geometry, device) for name in POLICIES}


def _attend_times(policy: str, geometry: CacheGeometry, device: torch.device) -> dict[str, Any]:
    planned = _planned(policy, geometry)
    cache = KVCache(planned.plan, planned.policy, tables=Tables())
    attends = len(geometry.schedule) * geometry.layers
    image = _image(cache, geometry, device)
    image()  # makes the tables that later images share
    host, whole = [], []
    for _ in range(IMAGES):
        begin = time.perf_counter()
        image()
        host.append(time.perf_counter() - begin)
        _wait(device)
        whole.append(time.perf_counter() - begin)
    graph, why = _graph_seconds(image, device)
    per_attend = {"host": min(host), "image": min(whole), "graph": graph}
    return {
        **{what: None if seconds is None else seconds / attends * 1e6 for what, seconds in per_attend.items()},
        "null": {"graph": why} if why else {},
    }


def _planned(policy: str, geometry: CacheGeometry) -> Planned:
    chosen = shared_registry().policy(policy)
    profile = assumed_profile(geometry, default_drafters(geometry.layers)) if chosen.needs_profile else None
    return plan_policy(chosen, geometry, budget="10%" if chosen.allocator.spends_all else None, profile=profile)


def _image(cache: KVCache, geometry: CacheGeometry, device: torch.device) -> Callable[[], None]:
    """Attends all scales and layers of an image with fixed random numbers."""
    shapes = [(3, geometry.rows, geometry.heads, n, geometry.head_dim) for n in geometry.schedule.tokens]
    scales = [torch.randn(shape, device=device).to(geometry.dtype) for shape in shapes]

    def attend() -> None:
        for q, k, v in scales:
            for layer in range(geometry.layers):
                cache.attend(layer, q, k, v, softmax_scale=0.1)
        cache.close()

    return attend


def _graph_seconds(image: Callable[[], None], device: torch.device) -> tuple[float | None, str]:
    """(seconds of an image that is replayed as a CUDA graph, why there is none)."""
    if device.type != "cuda":
        return None, "no CUDA device"
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            image()
    except RuntimeError as error:  # something on the path cannot be captured
        return None, str(error).splitlines()[0]
    seconds = []
    for _ in range(IMAGES):
        _wait(device)
        begin = time.perf_counter()
        graph.replay()
        _wait(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds), ""


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


# -- the table ----------------------------------------------------------------------------------------------------------------


def table(records: Path) -> str:
    """Markdown of all records in a folder."""
    lines = []
    for path in sorted(records.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        lines += _attend_table(record) if "attend" in record else _bench_table(path.stem, record)
    return "\n".join(lines) + "\n" if lines else "Not measured yet.\n"


def _bench_table(name: str, record: dict[str, Any]) -> list[str]:
    settings = record["settings"]
    lines = [f"{name}: {settings['rows']} rows, {settings['dtype']}, {settings['device']}", ""]
    lines += ["| policy | time of an image | x unmodified | peak of the cache |", "| --- | ---: | ---: | ---: |"]
    for policy, one in record["contenders"].items():
        milliseconds = "" if one["seconds"] is None else f"{one['seconds']['median'] * 1e3:.1f} ms"
        ratio = "" if one["ratio"] is None else f"{one['ratio']['median']:.3f}"
        peak = "" if one["bytes"] is None else format_bytes(one["bytes"]["peak"])
        lines.append(f"| `{policy}` | {milliseconds} | {ratio} | {peak} |")
    return [*lines, ""]


def _attend_table(record: dict[str, Any]) -> list[str]:
    lines = [f"Microseconds per `attend` on {record['device']}, torch {record['torch']}:", ""]
    lines += ["| policy | host | with the device | as a CUDA graph |", "| --- | ---: | ---: | ---: |"]
    for policy, one in record["attend"].items():
        graph = one["null"].get("graph", "") if one["graph"] is None else f"{one['graph']:.0f}"
        lines.append(f"| `{policy}` | {one['host']:.0f} | {one['image']:.0f} | {graph} |")
    return [*lines, ""]


if __name__ == "__main__":
    sys.exit(main())
