"""Prompts, seeds, dtypes and devices: valid values in every form, others refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scalekv_core import InputError, Registry, ScaleKVError, UnknownName
from scalekv_core.models.requests import check_prompts, check_seeds, read_device, read_dtype
from scalekv_core.plugins.registry import load_model
from scalekv_core.testing import toy


@pytest.fixture
def model() -> toy.ToyImageModel:
    return load_model("toy", registry=Registry.of(toy))


@pytest.mark.parametrize(
    ("prompts", "why"),
    [
        ("37", r"needs a list of prompts, one per image; got one text: write \['37'\]"),
        ([3], "prompt 1 of 1 is 3, no text; write '3'"),
        (3, "needs a list of prompts, one per image; got 3"),
        (["3", "4\udcff"], "prompt 2 of 2 is not valid text at character 2"),
        ([], "needs at least one prompt; got none"),
    ],
)
def test_prompts_are_texts(model: toy.ToyImageModel, prompts, why: str) -> None:
    """A text is not split into letters, and other values are refused."""
    with pytest.raises(InputError, match=why):
        model.generate(prompts, seeds=[0])
    with pytest.raises(InputError, match=why):
        check_prompts("other", prompts)


@pytest.mark.parametrize("seed", [1.9, 1.0, -1, 2**64, True, None, "1", np.float64(2)])
def test_seeds_are_whole_numbers(model: toy.ToyImageModel, seed) -> None:
    """Seeds are never rounded, wrapped or converted."""
    with pytest.raises(InputError, match=r"model 'toy' needs seeds that are whole numbers from 0 to 2\*\*64 - 1; got"):
        model.generate(["3"], seeds=[seed])


@pytest.mark.parametrize("seeds", [[0, 1], [], 0, 1.5])
def test_there_is_one_seed_per_image(model: toy.ToyImageModel, seeds) -> None:
    with pytest.raises(InputError, match="model 'toy' needs one seed per image"):
        model.generate(["3"], seeds=seeds)


def test_seeds_may_be_of_any_kind_of_whole_number() -> None:
    """Integers of numpy and torch, and a range, are accepted."""
    given = [np.int64(3), torch.tensor(4), 2**64 - 1]
    assert [3, 4, 2**64 - 1] == check_seeds(given, 3, who="x")
    assert [0, 1] == check_seeds(range(2), 2, who="x")


def test_a_generator_gives_its_next_numbers() -> None:
    """A generator gives one seed per image from its state, in place of one seed or of all."""

    def source() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    first, second = check_seeds(source(), 2, who="x")
    assert first != second
    assert [first, second] == check_seeds([shared := source(), shared], 2, who="x")
    assert [7, first] == check_seeds([7, source()], 2, who="x")


@pytest.mark.parametrize("dtype", ["float16", "torch.float16", torch.float16])
def test_a_dtype_may_be_named(dtype) -> None:
    assert read_dtype(dtype) == torch.float16
    model = load_model("toy", dtype=dtype, registry=Registry.of(toy))
    assert model.module.head.weight.dtype == torch.float16


@pytest.mark.parametrize("dtype", ["half", "int8", torch.int64, "x" * 5000, None])
def test_another_dtype_is_refused(dtype) -> None:
    with pytest.raises(UnknownName, match="no dtype is called") as error:
        load_model("toy", dtype=dtype, registry=Registry.of(toy))
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("gpu", "device 'gpu' cannot be used"),
        ("cuda:99", "device 'cuda:99' cannot be used"),
        ("meta", "device 'meta' holds no numbers, so nothing can be generated on it"),
        (3.5, "device '3.5' cannot be used"),
    ],
)
def test_a_device_that_is_not_here_is_refused(device, why: str) -> None:
    """One line names the available devices."""
    with pytest.raises(ScaleKVError, match=f"{why}.*there is cpu") as error:
        load_model("toy", device=device, registry=Registry.of(toy))
    assert "\n" not in str(error.value)
    assert read_device(torch.device("cpu")) == torch.device("cpu")


def test_cuda_without_cuda_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    with pytest.raises(InputError, match="device 'cuda' cannot be used"):
        load_model("toy", device="cuda", registry=Registry.of(toy))


@pytest.mark.parametrize("device", ["cpu:1", "cpu:5", torch.device("cpu", 3)])
def test_a_cpu_has_no_number(device: str | torch.device) -> None:
    """Torch takes any number for the CPU; it is refused, wherever a device is given."""
    with pytest.raises(InputError, match="is not there: a CPU has no number; write cpu"):
        load_model("toy", device=device, registry=Registry.of(toy))
    assert torch.device("cpu:0") == read_device("cpu:0")
