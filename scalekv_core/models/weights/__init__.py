"""Weights from files into models, as far as that knows no model: reading, fitting, and writing them once as safetensors.

``files`` reads a file as data only, ``format`` is what a family of models says about its files, ``source`` finds a model in
files and folders, ``fitting`` puts it into a module without a second copy, ``writing`` streams it to a safetensors file, and ``conversion`` does that for all that a file or folder holds.
"""

from scalekv_core.models.weights.files import State
from scalekv_core.models.weights.fitting import check_fit, fill, numbered
from scalekv_core.models.weights.format import WeightsFormat
from scalekv_core.models.weights.source import Weights, beside, find_weights
from scalekv_core.models.weights.writing import write_safetensors

__all__ = [
    "State",
    "Weights",
    "WeightsFormat",
    "beside",
    "check_fit",
    "fill",
    "find_weights",
    "numbered",
    "write_safetensors",
]
