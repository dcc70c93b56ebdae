"""``record.json``: everything that is needed to generate the same images again, and the results."""

from __future__ import annotations

import datetime
import json
import math
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch

from scalekv_core.cli.generating import Generated
from scalekv_core.cli.installed import registered_name, the_registry
from scalekv_core.compare.environment import fingerprint
from scalekv_core.compare.metrics import Fidelity
from scalekv_core.contracts.options import options_of
from scalekv_core.contracts.policy import PARTS, Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.models.image_model import ImageModel
from scalekv_core.pipeline.job import Job


def record(
    model: ImageModel,
    job: Job,
    generated: Sequence[Generated],
    *,
    arguments: Sequence[str],
    weights: Path | str | None,
    device: str,
    profile: AttentionProfile | None,
    profile_file: Path | None,
) -> dict[str, Any]:
    """The record of a run, as plain values.

    Args:
        model, job, generated: the model, its prompts and seeds, the images.
        arguments: of the command line.
        weights, device: where the model came from and ran.
        profile, profile_file: what was given in place of the model's own.
    """
    used = (profile or model.profile) if any(one.policy.needs_profile for one in generated) else None
    geometry = generated[0].image.planned.geometry
    return {
        "command": shlex.join(["scalekv", *arguments]) if arguments else None,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(generated),
        "model": {
            "name": model.name,
            "weights": None if weights is None else str(weights),
            "fingerprint": fingerprint(model.module),
            "maps": str(geometry.schedule),
            "layers": geometry.layers,
            "heads": geometry.heads,
            "head_dim": geometry.head_dim,
        },
        "device": device,
        "dtype": str(geometry.dtype).removeprefix("torch."),
        "prompts": list(job.prompts),
        "seeds": list(job.seeds),
        "sampling": attrs.asdict(job.sampling),
        "profile": None if used is None else profile_record(used, profile_file),
        "policies": [policy_record(one) for one in generated],
    }


def policy_record(generated: Generated) -> dict[str, Any]:
    """A policy with all its parts and options, its budget, and its figures."""
    return {
        "name": generated.policy.name,
        "budget": str(generated.image.planned.budget),
        "parts": parts_record(generated.policy),
        "memory": {**generated.report.as_dict(), "resident_bytes_by_scale": list(generated.image.resident)},
        "fidelity": None if generated.fidelity is None else fidelity_record(generated.fidelity),
    }


def parts_record(policy: Policy) -> dict[str, Any]:
    """{part: its name, class, plugin and options}."""
    registry = the_registry()
    described = {}
    for part in PARTS:
        strategy = getattr(policy, part)
        name = registered_name(registry, part, strategy)
        described[part] = {
            "name": name,
            "class": f"{type(strategy).__module__}.{type(strategy).__qualname__}",
            "plugin": str(registry.offer(part, name).owner) if name else None,
            "options": options_of(strategy),
        }
    return described


def fidelity_record(fidelity: Fidelity) -> dict[str, Any]:
    """The figures. JSON has no infinity and no nan: they are null, and ``null`` says why for each figure that has one."""
    values = {name: _plain(value) for name, value in attrs.asdict(fidelity).items()}
    return {"identical": fidelity.identical, **values, "null": fidelity.not_finite}


def profile_record(profile: AttentionProfile, file: Path | None) -> dict[str, Any]:
    """What a profile says about itself, and where it came from."""
    return {
        "model": profile.model,
        "from": "the model's own" if file is None else str(file),
        "provenance": dict(profile.provenance),
    }


def versions(generated: Sequence[Generated] = ()) -> dict[str, str]:
    """{name: version} of what the images depend on, the policies' plugins too."""
    registry = the_registry()
    plugins = {}
    for one in generated:
        offered = registry.offers.get(("policy", one.policy.name.split(" ")[0]))
        if offered is not None and offered.owner.version:
            plugins[offered.owner.distribution] = offered.owner.version
    return {
        "scalekv": version("scalekv"),
        **plugins,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def as_json(value: Any) -> str:
    """Text that a person can read, too."""
    return json.dumps(value, indent=2, allow_nan=False, default=str) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
