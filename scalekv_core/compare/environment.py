"""What figures depend on beside the question: versions, devices, weights. It is recorded, and checked on resuming."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from scalekv_core.compare.question import Setting, read_policy
from scalekv_core.models.image_model import ImageModel
from scalekv_core.plugins.registry import Registry

MOST_FINGERPRINTED = 256 << 20
"""Bytes of weights up to which a fingerprint is taken."""


def environment(
    models: Sequence[ImageModel], settings: Sequence[Setting], metrics: Sequence[str], device: str, registry: Registry
) -> dict[str, Any]:
    """The record, as plain values."""
    return {
        "versions": {"scalekv": version("scalekv"), "torch": torch.__version__, **plugins(settings, metrics, registry)},
        "python": platform.python_version(),
        "device": device_name(device),
        "weights": {model.name: fingerprint(model.module) for model in models},
        "profiles": {model.name: _profile(model) for model in models},
    }


def device_name(device: str) -> str:
    """The device by the name that people know."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{device} ({platform.machine()})"


def plugins(settings: Sequence[Setting], metrics: Sequence[str], registry: Registry) -> dict[str, str]:
    """{distribution: version} of the plugins that models, policies and their parts, codecs and metrics come from."""
    keys = {("model", setting.model) for setting in settings} | {("metric", name) for name in metrics}
    for setting in settings:
        policy, parts = read_policy(setting.policy)
        keys |= {("policy", policy), *parts.items(), ("codec", setting.codec)}
    owners = [registry.offers[key].owner for key in sorted(keys) if key in registry.offers]
    return {owner.distribution: owner.version for owner in owners if owner.version}


def fingerprint(module: nn.Module) -> str | None:
    """SHA-256 over names and bytes of all tensors of a model, whatever file they came from; None for large models."""
    state = module.state_dict()
    if sum(tensor.nbytes for tensor in state.values()) > MOST_FINGERPRINTED:
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()}"


def _profile(model: ImageModel) -> str | None:
    if model.profile is None:
        return None
    return f"sha256:{hashlib.sha256(model.profile.mass.tobytes()).hexdigest()}"
