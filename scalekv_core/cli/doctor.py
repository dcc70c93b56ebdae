"""``scalekv doctor``: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import platform
import re
import warnings
from importlib import metadata
from typing import Any

import typer

from scalekv_core.cli import console

DEV = "dev"
"""The extra that is for working on scalekv itself; it repeats the others."""


def doctor() -> None:
    """Check versions, devices, attention kernels and plugins; exit 1 if something is wrong."""
    problems: list[str] = []
    console.heading("versions")
    console.pairs(versions())
    _devices(problems)
    console.heading("optional packages")
    console.pairs(extras())
    _plugins(problems)
    if not problems:
        console.heading("ok")
        return
    console.heading(f"{len(problems)} to look at")
    console.pairs(("-", problem) for problem in problems)
    raise typer.Exit(1)


def versions() -> list[tuple[str, str]]:
    """(name, version) of what everything rests on."""
    import torch

    return [
        ("scalekv", metadata.version("scalekv")),
        ("python", f"{platform.python_version()} on {platform.system()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
    ]


def _devices(problems: list[str]) -> None:
    import torch

    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    console.heading("devices")
    rows = []
    for device in devices:
        kernels = sdpa_kernels(device)
        rows += [(str(device), device_in_words(device)), ("", f"attention kernels: {', '.join(kernels) or 'none'}")]
        if not kernels:
            problems.append(f"scaled_dot_product_attention does not run on {device}; install a torch build for it")
    if len(devices) == 1 and torch.version.cuda is None:
        rows.append(("cuda", "not in this build of torch"))
    elif len(devices) == 1:
        rows.append(("cuda", f"{torch.version.cuda}, but no device is visible: see nvidia-smi, CUDA_VISIBLE_DEVICES"))
    console.pairs(rows)


def device_in_words(device: Any) -> str:
    """Name, compute capability and memory of a device."""
    import torch

    from scalekv_core.shapes.geometry import format_bytes

    if device.type != "cuda":
        return platform.machine()
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    capability = f"capability {properties.major}.{properties.minor}"
    return f"{properties.name}, {capability}, {format_bytes(free)} free of {format_bytes(total)}"


def sdpa_kernels(device: Any) -> list[str]:
    """The kernels of scaled_dot_product_attention that run here, in the dtype that models use: tried, not asked for."""
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    x = torch.zeros(1, 1, 16, 64, dtype=torch.float32 if device.type == "cpu" else torch.bfloat16, device=device)
    found = []
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        backend = getattr(SDPBackend, name, None)  # cuDNN's came later than torch 2.3
        if backend is None:
            continue
        try:
            with warnings.catch_warnings(), sdpa_kernel([backend]):
                warnings.simplefilter("ignore")  # torch says at length why a kernel does not fit
                F.scaled_dot_product_attention(x, x, x)
        except RuntimeError:
            continue
        found.append(name.lower().removesuffix("_attention"))
    return found


def extras() -> list[tuple[str, str]]:
    """(package, version and what it is for) of every optional dependency, as the distribution declares them."""
    rows: dict[str, str] = {}
    for requirement in metadata.requires("scalekv") or ():
        match = re.match(r"([\w.-]+).*extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if match is None or match[2] == DEV:
            continue
        try:
            state = metadata.version(match[1])
        except metadata.PackageNotFoundError:
            state = f"not installed: pip install 'scalekv[{match[2]}]'"
        rows[match[1]] = f"{state}  ({match[2]})"
    return sorted(rows.items())


def _plugins(problems: list[str]) -> None:
    """Loads everything that is offered, so that what cannot be made is known before it is needed."""
    from scalekv_core.cli.installed import the_registry
    from scalekv_core.cli.plugins import origin
    from scalekv_core.errors import ScaleKVError

    console.heading("plugins")
    try:
        registry = the_registry()
    except ScaleKVError as error:
        problems.append(str(error))
        return
    counts = {owner: sum(offer.owner == owner for offer in registry.offers.values()) for owner in registry.owners}
    console.pairs((owner.plugin, f"{origin(owner)}, offers {count} names") for owner, count in counts.items())
    problems += [f"{problem}; SCALEKV_PLUGINS=NAME,... loads only some" for problem in registry.problems]
    for kind, name in sorted(registry.offers):
        try:
            registry.make(kind, name)
        except ScaleKVError as error:
            problems.append(str(error))
