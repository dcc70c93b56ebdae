"""What a policy costs in time and in memory beside the unmodified cache, at the sizes of real models, without weights.

Either attention alone: random queries, keys and values go through the unmodified model's way of caching and through
``KVCache.attend``. Or a whole transformer with random weights, which generates by its own loop. All contenders take turns in one
run, several times. What is measured, and what is left out, is said beside every figure.
"""

from scalekv_core.bench.compare import Change, Comparison, compare_records, read_record
from scalekv_core.bench.contenders import Contender, PolicyContender, RunLayer, Unmodified
from scalekv_core.bench.figures import BenchResult, ContenderFigures, Spread
from scalekv_core.bench.fit import check_bench_fits, needed_bytes
from scalekv_core.bench.inputs import AttentionAlone, make_inputs
from scalekv_core.bench.peak import MemoryFigures, measure_memory
from scalekv_core.bench.plot import figure_of_growth, growth
from scalekv_core.bench.released import ReleasedCode
from scalekv_core.bench.run import Bench
from scalekv_core.bench.settings import BenchSettings, parse_maps
from scalekv_core.bench.whole import WholeTransformer
from scalekv_core.planning.assumed import assumed_profile, default_drafters

__all__ = [
    "AttentionAlone",
    "Bench",
    "BenchResult",
    "BenchSettings",
    "Change",
    "Comparison",
    "Contender",
    "ContenderFigures",
    "MemoryFigures",
    "PolicyContender",
    "ReleasedCode",
    "RunLayer",
    "Spread",
    "Unmodified",
    "WholeTransformer",
    "assumed_profile",
    "check_bench_fits",
    "compare_records",
    "default_drafters",
    "figure_of_growth",
    "growth",
    "make_inputs",
    "measure_memory",
    "needed_bytes",
    "parse_maps",
    "read_record",
]
