"""CacheGeometry: the published megabytes, to the MiB."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from scalekv_core import CacheGeometry, ScaleSchedule
from scalekv_core.shapes.geometry import format_bytes

INFINITY_1M = ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
VAR_256 = ScaleSchedule.square(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
INFINITY_8B = CacheGeometry(
    schedule=INFINITY_1M,
    layers=40,
    heads=28,
    head_dim=128,
    rows=16,
    dtype=torch.bfloat16,
    unmodified_key_dtype=torch.float32,
)
INFINITY_2B = evolve(INFINITY_8B, layers=32, heads=16)


def mib(count: int) -> int:
    return round(count / 2**20)


@pytest.mark.parametrize(
    ("model", "unmodified", "history_fp32_keys", "history", "paper_10_percent"),
    [
        (INFINITY_8B, 138_088, 84_328, 56_219, 8_531),
        (INFINITY_2B, 63_126, 38_550, 25_700, 3_900),
        (INFINITY_8B.for_rows(2), 17_261, 10_541, 7_027, 1_066),
        (INFINITY_2B.for_rows(2), 7_891, 4_819, 3_212, 488),
    ],
    ids=["8B-16-rows", "2B-16-rows", "8B-2-rows", "2B-2-rows"],
)
def test_infinity_as_published(
    model: CacheGeometry, unmodified: int, history_fp32_keys: int, history: int, paper_10_percent: int
) -> None:
    """ScaleKV's table 1 and what the official code really holds: fp32 keys, bf16 values, the last map too."""
    assert unmodified == mib(model.unmodified_bytes)
    assert history_fp32_keys == mib(6_425 * model.unmodified_token_bytes)
    assert history == mib(model.history_bytes)
    assert paper_10_percent == mib(650 * model.unmodified_token_bytes)


@pytest.mark.parametrize(
    ("model", "everything", "history", "at_650"),
    [
        (INFINITY_8B, 92_059, 56_219, 5_688),
        (INFINITY_2B, 42_084, 25_700, 2_600),
        (INFINITY_8B.for_rows(2), 11_507, 7_027, 711),
        (INFINITY_2B.for_rows(2), 5_260, 3_212, 325),
    ],
    ids=["8B-16-rows", "2B-16-rows", "8B-2-rows", "2B-2-rows"],
)
def test_infinity_in_bf16(model: CacheGeometry, everything: int, history: int, at_650: int) -> None:
    """Keys stored in the dtype that attention reads."""
    assert everything == mib(model.schedule.total * model.token_bytes)
    assert history == mib(model.history_bytes)
    assert at_650 == mib(650 * model.token_bytes)


def test_infinity_per_token() -> None:
    """Bytes per token of one row, and the two lossless changes together: 2.46 times less."""
    assert 573_440 == INFINITY_8B.for_rows(1).token_bytes
    assert 262_144 == INFINITY_2B.for_rows(1).token_bytes
    assert 13.125 == INFINITY_8B.unmodified_token_bytes / 2**20
    assert 6.0 == INFINITY_2B.unmodified_token_bytes / 2**20
    assert 2.46 == round(INFINITY_8B.unmodified_bytes / INFINITY_8B.history_bytes, 2)


@pytest.mark.parametrize(
    ("depth", "everything", "history"), [(16, 42.5, 26.5), (20, 66.4, 41.4), (24, 95.6, 59.6), (30, 149.4, 93.2)]
)
def test_var_as_published(depth: int, everything: float, history: float) -> None:
    """VAR-d: d layers of d heads of 64, 680 tokens, bf16; MiB of one row, with and without the last map."""
    var = CacheGeometry(schedule=VAR_256, layers=depth, heads=depth, head_dim=64, dtype=torch.bfloat16)

    assert everything == round(var.unmodified_bytes / 2**20, 1)
    assert history == round(var.history_bytes / 2**20, 1)


@pytest.mark.parametrize("field", ["layers", "heads", "head_dim", "rows"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None])
def test_a_model_has_whole_sizes(field: str, value: object) -> None:
    """Sizes are whole numbers of at least 1."""
    with pytest.raises((ValueError, TypeError), match=field):
        evolve(INFINITY_2B, **{field: value})


def test_bytes_as_people_read_them() -> None:
    """The largest unit that gives at least 1."""
    counts = [0, 1023, 1024, 1536, 2**20, 2**30 - 1, 2**30, INFINITY_8B.unmodified_bytes]

    assert ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1024.0 MiB", "1.0 GiB", "134.9 GiB"] == [
        format_bytes(count) for count in counts
    ]
