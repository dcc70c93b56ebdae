"""scalekv: swap KV-cache compression policies, by name, in visual autoregressive image models."""

from scalekv_core.bare_model import BareModel
from scalekv_core.budget import Budget
from scalekv_core.cache import KVCache
from scalekv_core.calibration import Calibration, calibrate
from scalekv_core.clock import Clock
from scalekv_core.encoded import Encoded
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
from scalekv_core.footprint import Footprint, footprint
from scalekv_core.geometry import CacheGeometry
from scalekv_core.hookspecs import hookimpl
from scalekv_core.image_model import Generation, ImageModel, ModelCard, Sampling
from scalekv_core.interfaces import (
    AttentionCache,
    BudgetAllocator,
    CacheCodec,
    CacheSource,
    CacheView,
    LayerClassifier,
    LayerRoles,
    ModelAdapter,
    ScoringSelector,
    TokenMerger,
    TokenSelector,
)
from scalekv_core.memory_plan import MemoryPlan, plan_memory
from scalekv_core.plan import CachePlan
from scalekv_core.planner import Planned, plan_policy
from scalekv_core.policy import Policy
from scalekv_core.profile import AttentionProfile
from scalekv_core.registry import Registry, load_model, shared_registry
from scalekv_core.report import Report
from scalekv_core.schedule import ScaleSchedule
from scalekv_core.session import Session, compress

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
