"""Prints what loading a model at its real size holds: ``python tests/bench/weigh_loading.py --model infinity-2b --into
FOLDER``.

Writes random weights of the model's names and shapes in several layouts and loads each in a process of its own. Memory that
is a mapped file is not counted as held, for its pages are the file's and may be reclaimed at any time; the kernel tells the
two apart (RssAnon, RssFile), so this needs Linux. Nothing here is asserted: the promise is tested at a small size in
tests/core/test_weights.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from scalekv_adapters.infinity.checkpoint import InfinityFormat, load_infinity
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_core.models.weights import find_weights, write_safetensors

GIB = 2**30
SHARDS = 8
STATUS = Path("/proc/self/status")


def shapes_of(model: str) -> dict[str, torch.Size]:
    """{name: shape} of all weights of a model."""
    with torch.device("meta"):
        built = Infinity(InfinityConfig.published(model))
    return {name: value.shape for name, value in built.state_dict().items()}


def shards_of(shapes: dict[str, torch.Size], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """Random weights, shard by shard, about equally large."""
    part, elements, most = {}, 0, sum(shape.numel() for shape in shapes.values()) / SHARDS
    for name, shape in shapes.items():
        part[name] = torch.empty(shape, dtype=dtype).uniform_(-0.02, 0.02)
        elements += shape.numel()
        if elements >= most:
            yield part
            part, elements = {}, 0
    if part:
        yield part


def write_shards(folder: Path, shapes: dict[str, torch.Size], dtype: torch.dtype, save: Callable, suffix: str) -> None:
    """A folder of shards with its index."""
    folder.mkdir(parents=True)
    weight_map = {}
    for n, part in enumerate(shards_of(shapes, dtype)):
        file = folder / f"model-{n:05d}{suffix}"
        save(part, file)
        weight_map |= dict.fromkeys(part, file.name)
    (folder / f"model{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def save_zip(part: dict[str, Tensor], file: Path) -> None:
    torch.save(part, file)


def save_old(part: dict[str, Tensor], file: Path) -> None:
    torch.save(part, file, _use_new_zipfile_serialization=False)


LAYOUTS = {
    "bfloat16 shards, safetensors": (torch.bfloat16, save_file, ".safetensors"),
    "float32 shards, .bin": (torch.float32, save_zip, ".bin"),
    "float32 shards, .bin from before zip": (torch.float32, save_old, ".bin"),
}
"""{layout: (dtype in the file, how it is saved, suffix)}."""


class Sampler(threading.Thread):
    """The maximum of this process's own memory and of its mapped files while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = self.mapped = 0
        self.running = True

    def run(self) -> None:
        while self.running:
            now = memory()
            self.anonymous, self.mapped = max(self.anonymous, now["RssAnon"]), max(self.mapped, now["RssFile"])
            time.sleep(0.002)


def memory() -> dict[str, int]:
    """{RssAnon, RssFile: bytes} of this process."""
    rows = (line.split() for line in STATUS.read_text().splitlines())
    return {row[0][:-1]: int(row[1]) * 1024 for row in rows if row[0] in ("RssAnon:", "RssFile:")}


def measured(act: Callable[[], object]) -> dict[str, float]:
    """Additional bytes and seconds of calling this function."""
    before, sampler, start = memory()["RssAnon"], Sampler(), time.perf_counter()
    sampler.start()
    kept = act()
    seconds = time.perf_counter() - start
    sampler.running = False
    sampler.join()
    held = memory()["RssAnon"] - before
    del kept
    return {"peak": sampler.anonymous - before, "held": held, "mapped": sampler.mapped, "seconds": seconds}


def load(path: Path) -> dict[str, float]:
    """Loads in bfloat16 and reads every weight once, since a mapped file takes no memory before."""

    def act() -> Infinity:
        model = load_infinity(path, dtype=torch.bfloat16)
        for weight in model.state_dict().values():
            weight.max()
        return model

    find_weights(path, InfinityFormat())
    shapes_of("infinity-125m")  # what building anything imports is not part of it
    return measured(act)


def convert(path: Path) -> dict[str, float]:
    """Converts to bfloat16."""
    weights, out = find_weights(path, InfinityFormat()), path.with_name(f"{path.name}.safetensors")
    return measured(lambda: write_safetensors(weights, out, dtype=torch.bfloat16))


ACTS = {"load": load, "convert": convert}


def apart(act: str, path: Path) -> dict[str, float]:
    """Runs one of the acts in a process of its own."""
    ran = subprocess.run([sys.executable, __file__, "--act", act, "--path", path], stdout=subprocess.PIPE, check=True)
    return json.loads(ran.stdout)


def report(line: str, figures: dict[str, float], weights: int, shard: int) -> None:
    """A line of the table."""
    print(
        f"{line:52} {figures['peak'] / GIB:8.2f} {figures['held'] / GIB:8.2f} {figures['mapped'] / GIB:8.2f} "
        f"{weights / GIB:8.2f} {shard / GIB:8.2f} {figures['seconds']:7.1f}",
        flush=True,
    )


def main() -> None:
    """For every layout: writes, loads, converts, loads again, deletes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="infinity-2b")
    parser.add_argument("--into", type=Path, help="an empty folder on a disk with room for the model in float32")
    parser.add_argument("--act", choices=ACTS)
    parser.add_argument("--path", type=Path)
    given = parser.parse_args()
    if given.act:
        print(json.dumps(ACTS[given.act](given.path)))
        return
    shapes = shapes_of(given.model)
    titles = ("peak", "held", "mapped", "weights", "a shard", "seconds")
    print(f"{given.model} in bfloat16; GiB{'':{52 - len(given.model) - 17}} " + " ".join(f"{t:>8}" for t in titles))
    for title, (dtype, save, suffix) in LAYOUTS.items():
        folder = given.into / "shards"
        write_shards(folder, shapes, dtype, save, suffix)
        weights = sum(shape.numel() for shape in shapes.values()) * 2
        shard = max(file.stat().st_size for file in folder.iterdir())
        report(f"load {title}", apart("load", folder), weights, shard)
        if dtype != torch.bfloat16:
            report(f"convert {title}", apart("convert", folder), weights, shard)
            report("load what was converted", apart("load", folder.with_name("shards.safetensors")), weights, shard)
        for file in (*folder.iterdir(), *given.into.glob("*.safetensors")):
            file.unlink()
        folder.rmdir()


if __name__ == "__main__":
    main()
