"""The plugin of scalekv's own policies: it offers them and their parts by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scalekv_core.contracts.defaults import Dense, Drop, OneRole
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import BudgetAllocator, CacheCodec, LayerClassifier, TokenMerger, TokenSelector
from scalekv_core.plugins.hookspecs import hookimpl
from scalekv_policies.ada_kv import HeadDemand, ada_kv
from scalekv_policies.ams_kv import CondensedAndLocal, ams_kv
from scalekv_policies.by_score import ByScore
from scalekv_policies.cake import LayerPreference, MeanAndVariance, cake
from scalekv_policies.diagonal import Diagonal, diagonal
from scalekv_policies.float8 import Float8
from scalekv_policies.fold import Fold, ValueMass, fold
from scalekv_policies.full import Everything, full
from scalekv_policies.h2o import HeavyHitters, h2o
from scalekv_policies.heatkv import ScaleAttention, WholeMapsPerHead, heatkv
from scalekv_policies.host import Host
from scalekv_policies.integers import Int4, Int8
from scalekv_policies.pyramidkv import PyramidBudget, pyramidkv
from scalekv_policies.scalekv import ScaleKVAllocator, ScaleKVClassifier, ScaleKVSelector, scalekv
from scalekv_policies.scalekv_reference import (
    ReleasedAllocator,
    ReleasedClassifier,
    ReleasedSelector,
    scalekv_reference,
)
from scalekv_policies.snapkv import SnapSelector, snapkv
from scalekv_policies.streaming import SinksAndRecent, streaming
from scalekv_policies.uniform import EvenBudget, UniformSelector, random, sliding, uniform


@hookimpl
def scalekv_policies() -> Mapping[str, Callable[[], Policy]]:
    return {
        "ada-kv": ada_kv,
        "ams-kv": ams_kv,
        "cake": cake,
        "diagonal": diagonal,
        "fold": fold,
        "full": full,
        "h2o": h2o,
        "heatkv": heatkv,
        "pyramidkv": pyramidkv,
        "random": random,
        "scalekv": scalekv,
        "scalekv-reference": scalekv_reference,
        "sliding": sliding,
        "snapkv": snapkv,
        "streaming": streaming,
        "uniform": uniform,
    }


@hookimpl
def scalekv_layer_classifiers() -> Mapping[str, Callable[[], LayerClassifier]]:
    return {
        "ada-kv": HeadDemand,
        "cake": LayerPreference,
        "heatkv": ScaleAttention,
        "one-role": OneRole,
        "scalekv": ScaleKVClassifier,
        "scalekv-reference": ReleasedClassifier,
    }


@hookimpl
def scalekv_budget_allocators() -> Mapping[str, Callable[[], BudgetAllocator]]:
    return {
        "by-score": ByScore,
        "even": EvenBudget,
        "everything": Everything,
        "heatkv": WholeMapsPerHead,
        "pyramidkv": PyramidBudget,
        "scalekv": ScaleKVAllocator,
        "scalekv-reference": ReleasedAllocator,
    }


@hookimpl
def scalekv_token_selectors() -> Mapping[str, Callable[[], TokenSelector]]:
    return {
        "ams-kv": CondensedAndLocal,
        "cake": MeanAndVariance,
        "diagonal": Diagonal,
        "h2o": HeavyHitters,
        "scalekv": ScaleKVSelector,
        "scalekv-reference": ReleasedSelector,
        "snapkv": SnapSelector,
        "streaming": SinksAndRecent,
        "uniform": UniformSelector,
        "value-mass": ValueMass,
    }


@hookimpl
def scalekv_token_mergers() -> Mapping[str, Callable[[], TokenMerger]]:
    return {"drop": Drop, "fold": Fold}


@hookimpl
def scalekv_cache_codecs() -> Mapping[str, Callable[[], CacheCodec]]:
    return {"dense": Dense, "fp8": Float8, "host": Host, "int4": Int4, "int8": Int8}
