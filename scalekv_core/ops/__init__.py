"""The tensor functions of the hot path: no loop over rows or tokens, no device sync, memory bounded by a stated number."""

from __future__ import annotations

from scalekv_core.ops.attention import apart, attend, attention_mass, attention_probabilities, side_by_side
from scalekv_core.ops.chunks import CHUNK_BYTES, CHUNK_BYTES_CPU, blocks, chunk_length, default_chunk_bytes
from scalekv_core.ops.folding import fold
from scalekv_core.ops.likeness import most_alike
from scalekv_core.ops.tokens import (
    all_tokens,
    at_positions,
    flat_index,
    gather_tokens,
    largest,
    run_index,
    take_tokens,
    tight,
    token_starts,
    top_tokens,
)

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_BYTES_CPU",
    "all_tokens",
    "apart",
    "at_positions",
    "attend",
    "attention_mass",
    "attention_probabilities",
    "blocks",
    "chunk_length",
    "default_chunk_bytes",
    "flat_index",
    "fold",
    "gather_tokens",
    "largest",
    "most_alike",
    "run_index",
    "side_by_side",
    "take_tokens",
    "tight",
    "token_starts",
    "top_tokens",
]
