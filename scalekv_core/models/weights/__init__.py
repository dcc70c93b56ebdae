"""Weights from files into models, without knowing any model: reading, fitting, and writing them as safetensors.

``files`` reads one file as data only (``pickles`` says what a PyTorch file may ask for), ``states`` finds the state dicts in
it, ``shards`` lists the files of a folder, ``format`` is what a family of models says about its files, ``source`` finds one
network, ``fitting`` puts it into a module without a second copy, ``writing`` streams it to a safetensors file, and
``conversion`` does that for all that a file or folder holds.
"""

from scalekv_core.models.weights.fitting import check_fit, fill, numbered
from scalekv_core.models.weights.format import WeightsFormat
from scalekv_core.models.weights.source import Weights, beside, find_weights, shape_of
from scalekv_core.models.weights.states import State
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
    "shape_of",
    "write_safetensors",
]
