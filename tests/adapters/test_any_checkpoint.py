"""Any checkpoint either loads or ends in one line, without another exception and without allocating its tensors."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from scalekv_adapters.hart.checkpoint import load_hart, load_tokenizer
from scalekv_adapters.infinity.checkpoint import load_bsq_vae, load_infinity
from scalekv_adapters.infinitystar.checkpoint import load_infinitystar
from scalekv_adapters.infinitystar.tokenizer_checkpoint import load_video_tokenizer
from scalekv_adapters.var.checkpoint import load_var, load_vqvae
from scalekv_core.errors import CheckpointError
from scalekv_core.memory.meter import StorageTracker
from tests.adapters.hart.conftest import SIDES as HART_SIDES
from tests.adapters.hart.conftest import tiny_hart, tiny_tokenizer
from tests.adapters.hart.test_checkpoint import FLAGS, TOLD
from tests.adapters.infinitystar.golden import golden_star
from tests.adapters.infinitystar.tokenizer_data import golden_state

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
DTYPES = (*REAL, torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.complex64)
SIDES = (1, 2, 3, 4, 5, 6)
MOST_BYTES = 2**24
"""More than any of the models takes in float32."""


@functools.cache
def _under(file: str, *prefixes: str) -> dict[str, Tensor]:
    tensors = load_file(GOLDEN / file)
    return {name.removeprefix(p): value for p in prefixes for name, value in tensors.items() if name.startswith(p)}


def var() -> dict[str, Tensor]:
    with safe_open(GOLDEN / "var" / "var_saln0_l2n1.safetensors", framework="pt") as file:
        groups = json.loads(file.metadata()["config"])["weight_groups"]
    return _under("var/weights.safetensors", *(f"{group}." for group in groups))


def vqvae() -> dict[str, Tensor]:
    return _under("var/vae.safetensors", "sd.") | {"quantize.ema_vocab_hit_SV": torch.zeros(6, 64)}


def infinity() -> dict[str, Tensor]:
    return _under("infinity/like2b_weights.safetensors", "")


def bsq_vae() -> dict[str, Tensor]:
    return _under("infinity/like2b_vae.safetensors", "sd.")


def hart() -> dict[str, Tensor]:
    return {**tiny_hart("plain").state_dict(), "lvl_1L": torch.zeros(1, 102, dtype=torch.int64)}


def hart_tokenizer() -> dict[str, Tensor]:
    return {f"vae.{name}": x for name, x in tiny_tokenizer().state_dict().items()}


def load_hart_with_config(path: Path) -> Any:
    config = path.with_name("config.json")
    config.write_text(json.dumps({**TOLD, **FLAGS["plain"]}), encoding="utf-8")
    return load_hart(path, config)


def infinitystar() -> dict[str, Tensor]:
    return dict(golden_star().state_dict())


def video_tokenizer() -> dict[str, Tensor]:
    return golden_state()


MODELS: dict[Callable[[], dict[str, Tensor]], Callable[[Path], Any]] = {
    var: load_var,
    vqvae: functools.partial(load_vqvae, patch_sides=SIDES),
    infinity: load_infinity,
    bsq_vae: load_bsq_vae,
    hart: load_hart_with_config,
    hart_tokenizer: functools.partial(load_tokenizer, patch_sides=HART_SIDES),
    video_tokenizer: load_video_tokenizer,
    infinitystar: load_infinitystar,
}


@frozen
class Made:
    """A tensor: of one number, maybe repeated a thousand million times without taking memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    number: float
    repeated: bool

    def __call__(self, old: object) -> Tensor:
        number = self.number if self.dtype in REAL else 1
        value = torch.full(self.shape, number, dtype=torch.float64).to(self.dtype)
        return value[..., None].expand(*self.shape, 10**9) if self.repeated else value


@frozen
class Cast:
    """The same tensor in another dtype."""

    dtype: torch.dtype

    def __call__(self, old: object) -> object:
        if not isinstance(old, Tensor) or old.is_complex() or old.nbytes > MOST_BYTES:
            return old
        return old.to(self.dtype)


@frozen
class Given:
    """A value that is not a tensor."""

    value: object

    def __call__(self, old: object) -> object:
        return self.value


NUMBERS = st.sampled_from((0.0, 1.0, -1e30, float("nan"), float("inf")))
SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)
VALUES = st.one_of(
    st.builds(Made, SHAPES, st.sampled_from(DTYPES), NUMBERS, st.booleans()),
    st.builds(Cast, st.sampled_from(DTYPES)),
    st.builds(Given, st.none() | st.integers() | st.just("text") | st.just([1]) | st.just({})),
)


def edits(state: Mapping[str, Tensor]) -> st.SearchStrategy[list[tuple[object, Callable[[object], object]]]]:
    """A few names, old or new, and what their tensors become."""
    old = st.sampled_from(sorted(state, key=lambda name: (name.count("."), name)))
    new = old.map(lambda name: f"{name.rpartition('.')[0]}.9.{name.rpartition('.')[2]}")
    strange = st.sampled_from(
        (7, "", "module.", "module.a", "\n", "a" * 5000, "blocks.", "block_chunks.99999999.module.0")
    )
    return st.lists(st.tuples(old | old | new | strange, VALUES), max_size=3)


def bare(state: dict[Any, Any]) -> dict[Any, Any]:
    return state


def by_trainer(state: dict[Any, Any]) -> dict[Any, Any]:
    return {"trainer": {"gpt_fsdp": {f"module.{name}": value for name, value in state.items()}, "vae_local": state}}


def holding_itself(state: dict[Any, Any]) -> dict[Any, Any]:
    tree: dict[Any, Any] = {"model": state}
    tree["trainer"] = tree
    return tree


@pytest.mark.parametrize("make", MODELS)
@given(data=st.data())
def test_any_state_dict_loads_or_is_refused_in_one_line(make, data, tmp_path_factory) -> None:
    """Tensors of any shape, dtype and value, under missing and new names, in any nesting and file format."""
    state: dict[Any, Any] = dict(make())
    for name in data.draw(st.lists(st.sampled_from(sorted(state)), max_size=1), label="missing"):
        del state[name]
    for name, value in data.draw(edits(state), label="edits"):
        state[name] = value(state.get(name))
    path = tmp_path_factory.mktemp("any") / "model.pth"
    tree = data.draw(st.sampled_from((bare, by_trainer, holding_itself)))(state)
    torch.save(tree, path, _use_new_zipfile_serialization=data.draw(st.booleans(), label="zip"))
    said = ""
    with StorageTracker() as tracker:
        try:
            MODELS[make](path)
        except CheckpointError as error:
            said = str(error)
    assert "\n" not in said
    assert len(said) < 1000
    assert tracker.peak < MOST_BYTES
