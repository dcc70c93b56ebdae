"""scalekv: swap KV-cache compression policies, by name, in visual autoregressive image models."""

from scalekv_core.cache.clock import Clock
from scalekv_core.cache.kv_cache import KVCache
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
from scalekv_core.memory.estimate import MemoryPlan, plan_memory
from scalekv_core.models.bare_model import BareModel
from scalekv_core.models.image_model import Generation, ImageModel, ModelCard, Sampling
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.footprint import Footprint, footprint
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.plugins.hookspecs import hookimpl
from scalekv_core.plugins.registry import Registry, load_model, shared_registry
from scalekv_core.session.calibration import Calibration, calibrate
from scalekv_core.session.report import Report
from scalekv_core.session.session import Session, compress
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
    "Planned",
    "PluginError",
    "Policy",
    "ProfileError",
    "Registry",
    "Report",
    "Sampling",
    "ScaleKVError",
    "ScaleSchedule",
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
    "shared_registry",
]
