"""Attention alone, at the sizes of real models: what a policy costs in time and in memory beside the unmodified cache.

Nothing is drawn. Random queries, keys and values go through the unmodified model's way of caching and through
``KVCache.attend``, in one run, in turn, several times. What is measured, and what is left out, is said beside every figure.
"""

from scalekv_core.bench.compare import Change, Comparison, compare_records, read_record
from scalekv_core.bench.contenders import Contender, PolicyContender, RunLayer, Unmodified
from scalekv_core.bench.figures import BenchResult, ContenderFigures, Goal, Spread
from scalekv_core.bench.inputs import make_inputs
from scalekv_core.bench.peak import MemoryFigures, measure_memory
from scalekv_core.bench.released import ReleasedCode
from scalekv_core.bench.run import Bench
from scalekv_core.bench.settings import BenchSettings, parse_maps
from scalekv_core.stated import default_drafters, stated_profile

__all__ = [
    "Bench",
    "BenchResult",
    "BenchSettings",
    "Change",
    "Comparison",
    "Contender",
    "ContenderFigures",
    "Goal",
    "MemoryFigures",
    "PolicyContender",
    "ReleasedCode",
    "RunLayer",
    "Spread",
    "Unmodified",
    "compare_records",
    "default_drafters",
    "make_inputs",
    "measure_memory",
    "parse_maps",
    "read_record",
    "stated_profile",
]
