"""The released ScaleKV code, end to end: which tokens it keeps at every eviction, and what it generates from them.

That code scores with queries which no attention ever uses: the layer's input times the query weights, without bias, l2 norm,
head scale or rotation. A view does not show them, so the test hands them to the selector itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

from scalekv_core import BudgetAllocator, CachePlan, Policy, compress
from scalekv_policies.scalekv_reference import ReleasedSelector

RECORDING = Path(__file__).parents[2] / "data" / "golden" / "scalekv" / "e2e_like2b_kernel1.safetensors"
CUT = (4, 5)  # the scales after which tokens are dropped; what the last one would keep is read by nobody


@frozen
class RecordedCapacities(BudgetAllocator):
    """Everything up to the base of 100 tokens, then the capacities of the recording."""

    rows: dict

    def allocate(self, geometry, roles, slots):
        capacity = np.empty((len(geometry.schedule), geometry.layers, geometry.heads), dtype=np.int64)
        capacity[:] = np.asarray(geometry.schedule.keepable())[:, None, None]
        for scale in CUT:
            row = self.rows[str(scale)]
            capacity[scale] = row["other_layers"]
            capacity[scale, 0] = row["layer0"]
        return CachePlan(geometry.schedule, capacity)


@frozen(kw_only=True)
class WithRawQueries(ReleasedSelector):
    """The released selector, which scores with queries from a notebook instead of those of the view."""

    notebook: dict = field(factory=dict)

    @property
    def claims(self):
        return frozenset()

    def score(self, view, keep):
        return super().score(evolve(view, q=self.notebook[view.layer]), keep)


def raw_queries(model, notebook):
    """Hooks that write the raw queries (B, H, n, D) of every layer into a notebook, before its attention."""

    def write(attention, args):
        width = len(attention.q_bias)
        rows = F.linear(args[0], attention.mat_qkv.weight[:width])
        notebook[attention.layer] = rows.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

    for block in model.blocks:
        block.sa.register_forward_pre_hook(write)


@pytest.fixture
def drawn(make_infinity, golden_text):
    """(generation, {(scale, layer): kept indices}, {(scale, layer): raw queries})."""
    with safe_open(RECORDING, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    model, notebook, kept, queries = make_infinity("like2b"), {}, {}, {}
    raw_queries(model, notebook)

    def observe(view, index):
        queries[view.scale, view.layer] = notebook[view.layer]
        kept[view.scale, view.layer] = index

    selector = WithRawQueries(window=config["window_size"], kernel=config["kernel_size"], notebook=notebook)
    allocator = RecordedCapacities(config["capacities_by_scale_index"])
    policy = Policy(name="released", allocator=allocator, selector=selector, budget="100%")
    with compress(model, policy, check=True, observer=observe):
        drawing = model.generate(golden_text("like2b", "text1"), seeds=None, guidance=config["cfg"], keep_logits=True)
    return drawing, kept, queries


def test_the_released_code_keeps_these_tokens_and_draws_these_bits(drawn, golden):
    """Scoring queries, kept tokens, logits and bits equal the recorded ones at and after every eviction."""
    want, full, (drawing, kept, queries) = load_file(RECORDING), golden("like2b_io"), drawn
    assert_close(queries[4, 1][:1], want["score_q_s4_layer1_row0"], rtol=0, atol=2e-5)
    for scale in CUT:
        for layer in range(4):
            assert torch.equal(want[f"kept_s{scale}_layer{layer}"].long(), kept[scale, layer])
    for scale in (4, 5, 6):
        assert_close(drawing.logits[scale], want[f"logits_s{scale}"], rtol=0, atol=2e-4)
        assert torch.equal(want[f"bits_s{scale}"].flatten(1, 3).bool(), drawing.tokens[scale])
    difference = [(drawing.logits[s] - full[f"sq_cfg3.logits_s{s}"]).abs().max() for s in (4, 5, 6)]
    assert 2e-4 > difference[0]
    assert 1 < difference[1] < difference[2]
