"""What goes into a downloaded PNG, and beside it: everything that is needed to generate the image again, and the figures."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from typing import Any

import attrs
import torch

from scalekv_core.app.calls import Place, as_python, as_shell
from scalekv_core.app.engine import Result
from scalekv_core.contracts.options import options_of
from scalekv_core.plugins.registry import Registry


def record_of(result: Result, place: Place, registry: Registry) -> dict[str, Any]:
    """The record of both images, as plain values; it holds no path."""
    request, geometry = result.request, result.planned.geometry
    return {
        "command": as_shell(request.form, request.prompt, place),
        "python": as_python(request.form, request.prompt, place, request.job.batch.card.fps),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(result, registry),
        "model": {"name": request.form.model, "maps": str(geometry.schedule), "layers": geometry.layers},
        "device": place.device,
        "dtype": place.dtype,
        "prompt": request.prompt,
        "seed": request.seed,
        "sampling": attrs.asdict(request.job.sampling),
        "policy": {
            "name": request.policy.name,
            "budget": str(result.planned.budget),
            "parts": {
                part: {"class": type(strategy).__qualname__, "options": options_of(strategy)}
                for part, strategy in request.policy.parts.items()
            },
        },
        "memory": {**result.report.as_dict(), "resident_bytes_by_scale": list(result.report.images[-1].resident)},
        "seconds": {"unmodified": result.unmodified.seconds, "compressed": result.compressed.seconds},
    }


def _versions(result: Result, registry: Registry) -> dict[str, str]:
    """{name: version} of what the image depends on, the plugins of policy and model too."""
    form = result.request.form
    offers = [registry.offers.get(("policy", form.policy)), registry.offers.get(("model", form.model))]
    plugins = {one.owner.distribution: one.owner.version for one in offers if one is not None and one.owner.version}
    return {
        "scalekv": version("scalekv"),
        **plugins,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
