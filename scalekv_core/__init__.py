"""scalekv: swap KV-cache compression policies, by name, in visual autoregressive image models.

Public names are imported when they are first used (PEP 562): ``import scalekv_core`` alone does not import torch, so the
command line can show its help at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalekv_core.cache.clock import Clock
    from scalekv_core.cache.kv_cache import KVCache
    from scalekv_core.compare.clips import save_clip
    from scalekv_core.contracts.adapter import AttentionCache, CacheSource, ModelAdapter
    from scalekv_core.contracts.encoded import Encoded
    from scalekv_core.contracts.plan import CachePlan
    from scalekv_core.contracts.policy import Policy
    from scalekv_core.contracts.profile import AttentionProfile
    from scalekv_core.contracts.roles import LayerRoles
    from scalekv_core.contracts.strategies import (
        BudgetAllocator,
        CacheCodec,
        LayerClassifier,
        ScoringSelector,
        TokenMerger,
        TokenSelector,
    )
    from scalekv_core.contracts.view import CacheView
    from scalekv_core.errors import (
        BudgetError,
        CheckpointError,
        ContractError,
        InputError,
        MissingExtra,
        PluginError,
        ProfileError,
        ScaleKVError,
        SessionError,
        UnknownName,
    )
    from scalekv_core.memory.plan import MemoryPlan, plan_memory
    from scalekv_core.models.bare_model import BareModel
    from scalekv_core.models.card import ModelCard
    from scalekv_core.models.image_model import Generation, ImageModel
    from scalekv_core.models.sampling import Sampling
    from scalekv_core.models.steps import ScaleStep
    from scalekv_core.pipeline.output import PipelineOutput
    from scalekv_core.pipeline.pipeline import Pipeline
    from scalekv_core.pipeline.progress import Progress
    from scalekv_core.planning.budget import Budget
    from scalekv_core.planning.footprint import Footprint, footprint
    from scalekv_core.planning.planner import Planned, plan_policy
    from scalekv_core.plugins.hookspecs import hookimpl
    from scalekv_core.plugins.registry import Registry, load_model, shared_registry
    from scalekv_core.session.calibration import Calibration, calibrate
    from scalekv_core.session.compress import compress
    from scalekv_core.session.report import Report
    from scalekv_core.session.session import Session
    from scalekv_core.shapes.geometry import CacheGeometry
    from scalekv_core.shapes.schedule import ScaleSchedule

__all__ = [
    "AttentionCache",
    "AttentionProfile",
    "BareModel",
    "Budget",
    "BudgetAllocator",
    "BudgetError",
    "CacheCodec",
    "CacheGeometry",
    "CachePlan",
    "CacheSource",
    "CacheView",
    "Calibration",
    "CheckpointError",
    "Clock",
    "ContractError",
    "Encoded",
    "Footprint",
    "Generation",
    "ImageModel",
    "InputError",
    "KVCache",
    "LayerClassifier",
    "LayerRoles",
    "MemoryPlan",
    "MissingExtra",
    "ModelAdapter",
    "ModelCard",
    "Pipeline",
    "PipelineOutput",
    "Planned",
    "PluginError",
    "Policy",
    "ProfileError",
    "Progress",
    "Registry",
    "Report",
    "Sampling",
    "ScaleKVError",
    "ScaleSchedule",
    "ScaleStep",
    "ScoringSelector",
    "Session",
    "SessionError",
    "TokenMerger",
    "TokenSelector",
    "UnknownName",
    "calibrate",
    "compress",
    "footprint",
    "hookimpl",
    "load_model",
    "plan_memory",
    "plan_policy",
    "save_clip",
    "shared_registry",
]

_MODULES = {
    "cache.clock": ("Clock",),
    "cache.kv_cache": ("KVCache",),
    "compare.clips": ("save_clip",),
    "contracts.adapter": ("AttentionCache", "CacheSource", "ModelAdapter"),
    "contracts.encoded": ("Encoded",),
    "contracts.plan": ("CachePlan",),
    "contracts.policy": ("Policy",),
    "contracts.profile": ("AttentionProfile",),
    "contracts.roles": ("LayerRoles",),
    "contracts.strategies": (
        "BudgetAllocator",
        "CacheCodec",
        "LayerClassifier",
        "ScoringSelector",
        "TokenMerger",
        "TokenSelector",
    ),
    "contracts.view": ("CacheView",),
    "errors": (
        "BudgetError",
        "CheckpointError",
        "ContractError",
        "InputError",
        "MissingExtra",
        "PluginError",
        "ProfileError",
        "ScaleKVError",
        "SessionError",
        "UnknownName",
    ),
    "memory.plan": ("MemoryPlan", "plan_memory"),
    "models.bare_model": ("BareModel",),
    "models.card": ("ModelCard",),
    "models.image_model": ("Generation", "ImageModel"),
    "models.sampling": ("Sampling",),
    "models.steps": ("ScaleStep",),
    "pipeline.output": ("PipelineOutput",),
    "pipeline.pipeline": ("Pipeline",),
    "pipeline.progress": ("Progress",),
    "planning.budget": ("Budget",),
    "planning.footprint": ("Footprint", "footprint"),
    "planning.planner": ("Planned", "plan_policy"),
    "plugins.hookspecs": ("hookimpl",),
    "plugins.registry": ("Registry", "load_model", "shared_registry"),
    "session.calibration": ("Calibration", "calibrate"),
    "session.report": ("Report",),
    "session.compress": ("compress",),
    "session.session": ("Session",),
    "shapes.geometry": ("CacheGeometry",),
    "shapes.schedule": ("ScaleSchedule",),
}
"""{module: public names that it defines}; the same as the imports above, which only type checkers see."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, from its module; not kept here, so that both always mean the same."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
