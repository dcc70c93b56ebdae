"""Weights are read exactly from any layout and held once; faulty files end in one line."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scalekv_core.errors import CheckpointError
from scalekv_core.memory.meter import StorageTracker
from scalekv_core.models.weights import WeightsFormat, beside, fill, find_weights, write_safetensors
from scalekv_core.models.weights.files import SUFFIXES
from scalekv_core.models.weights.source import formats_in
from scalekv_core.models.weights.writing import DTYPES

WIDTH, LAYERS = 64, 8


@frozen
class Stack(WeightsFormat):
    """A stack of linear layers with a former name and a table that is not needed."""

    kind: ClassVar[str] = "stack"
    marker: ClassVar[str] = "layers.0.weight"

    def normal(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        return {} if name == "unneeded" else {name.replace("old.", "layers."): value}


@frozen
class Tiny(WeightsFormat):
    """Two tensors, in files that tests damage."""

    kind: ClassVar[str] = "tiny"
    marker: ClassVar[str] = "a"


SMALL = {"a": torch.arange(16.0), "b": torch.ones(3, dtype=torch.int64)}


@frozen
class Other(WeightsFormat):
    """Something else."""

    kind: ClassVar[str] = "other"
    marker: ClassVar[str] = "other"


class StackModule(nn.Module):
    """The module that a stack's file fills."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))


def state_of(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random weights of a stack."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in StackModule().state_dict().items()}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def empty_module() -> StackModule:
    with torch.device("meta"):
        return StackModule()


def save_shards(folder: Path, state: Mapping[str, Tensor], *, count: int, suffix: str, index: bool) -> list[Path]:
    """Writes a sharded checkpoint as hubs have them."""
    folder.mkdir(exist_ok=True)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    files = [folder / f"{stem}-{n + 1:05d}-of-{count:05d}{suffix}" for n in range(count)]
    names = list(state)
    cuts = [len(names) * n // count for n in range(count + 1)]
    parts = [{name: state[name] for name in names[a:b]} for a, b in pairwise(cuts)]
    for file, part in zip(files, parts, strict=True):
        save_file(part, file) if suffix == ".safetensors" else torch.save(part, file)
    if index:
        weight_map = {name: file.name for file, part in zip(files, parts, strict=True) for name in part}
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


def one_line(error: pytest.ExceptionInfo[CheckpointError]) -> str:
    """The message, if it is of one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_filled(path: Path, state: Mapping[str, Tensor]) -> None:
    """Asserts that a file or folder fills a module with exactly these weights."""
    model = fill(empty_module(), find_weights(path, Stack()), device="cpu", dtype=torch.float32)
    assert list(model.state_dict()) == list(StackModule().state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not model.training


# -- shards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth"])
@pytest.mark.parametrize("index", [True, False])
def test_shards_make_one_model(tmp_path: Path, suffix: str, index: bool) -> None:
    """A folder of shards is read whole, with an index or by the numbers in the names."""
    state = state_of()
    save_shards(tmp_path, state, count=3, suffix=suffix, index=index)

    assert_filled(tmp_path, state)


def test_of_two_indices_that_of_safetensors_counts(tmp_path: Path) -> None:
    """Of two indices in a folder the one of safetensors is used."""
    state = state_of()
    save_shards(tmp_path, {"stale": torch.zeros(1)}, count=1, suffix=".bin", index=True)
    save_shards(tmp_path, state, count=2, suffix=".safetensors", index=True)

    assert_filled(tmp_path, state)


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_shard_is_named(tmp_path: Path, index: bool) -> None:
    """The error names the file before anything is built."""
    save_shards(tmp_path, state_of(), count=3, suffix=".safetensors", index=index)[1].unlink()

    with pytest.raises(CheckpointError) as error:
        find_weights(tmp_path, Stack())
    assert f"checkpoint {tmp_path} lacks the shards model-00002-of-00003.safetensors; fetch" in one_line(error)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    """The error names the shard, not the folder."""
    shard = save_shards(tmp_path, state_of(), count=2, suffix=".bin", index=True)[1]
    shard.write_bytes(shard.read_bytes()[:-100])

    with pytest.raises(CheckpointError) as error:
        find_weights(tmp_path, Stack())
    assert f"checkpoint {shard} is truncated" in one_line(error)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    """A tensor in two shards is ambiguous and refused."""
    files = save_shards(tmp_path, state_of(), count=2, suffix=".safetensors", index=True)
    save_file(load_file(files[0]), files[1])

    with pytest.raises(CheckpointError, match=r"in more than one shard"):
        find_weights(tmp_path, Stack())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"weight_map": {"a": "../../secret.bin"}}', "names '../../secret.bin', which is not a file in its folder"),
        ('{"weight_map": {"a": 3}}', "names 3, which is not a file in its folder"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """An index is untrusted data and checked."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)

    with pytest.raises(CheckpointError) as error:
        find_weights(tmp_path, Stack())
    assert f"index {index} {message}" in one_line(error)


def test_a_folder_without_shards_says_what_it_holds(tmp_path: Path) -> None:
    """The error lists what the folder holds, or that it is empty."""
    with pytest.raises(CheckpointError, match=r"is no sharded checkpoint: there is no .* in it; it holds nothing"):
        find_weights(tmp_path, Stack())
    (tmp_path / "README.md").touch()
    with pytest.raises(CheckpointError, match=r"it holds README\.md"):
        find_weights(tmp_path, Stack())


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "old.pth"])
@given(seed=st.integers(0, 10**9))
def test_damaged_bytes_end_in_one_line(tmp_path_factory: pytest.TempPathFactory, name: str, seed: int) -> None:
    """Any file is read or refused in one line, without other exceptions or warnings."""
    path, rng = tmp_path_factory.mktemp("damaged") / name, random.Random(seed)
    if name.endswith(".safetensors"):
        save_file(SMALL, path)
    else:
        torch.save({"model": SMALL}, path, _use_new_zipfile_serialization=name != "old.pth")
    damaged = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 3, 20))):
        damaged[rng.randrange(min(len(damaged), rng.choice((64, 600, len(damaged)))))] = rng.randrange(256)
    path.write_bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged))))])
    said = f"checkpoint {path}"
    try:
        find_weights(path, Tiny())
    except CheckpointError as error:
        said = str(error)
    assert "\n" not in said
    assert str(path) in said


# -- names --------------------------------------------------------------------------------------------------------


def test_a_format_renames_and_drops(tmp_path: Path) -> None:
    """A format maps the file's names, shapes and tensors to the module's."""
    state = state_of()
    old = {name.replace("layers.", "old."): value for name, value in state.items() if name != Stack.marker}
    torch.save(old | {Stack.marker: state[Stack.marker], "unneeded": torch.zeros(1)}, tmp_path / "old.pth")

    assert_filled(tmp_path / "old.pth", state)


def test_a_trainers_file_may_hold_several_networks(tmp_path: Path) -> None:
    """Each network is found; averaged copies are not taken for the weights."""
    state = state_of()
    twin = {name: torch.zeros_like(value) for name, value in state.items()}
    path = tmp_path / "ar-ckpt.pth"
    torch.save({"trainer": {"gpt_ema_fsdp": twin, "gpt_fsdp": state, "vae_local": {"other": torch.ones(1)}}}, path)

    assert [Stack(), Other()] == formats_in(path, [Stack(), Other()])
    assert_filled(path, state)


def test_numbers_for_names_are_no_tensors_of_a_model(tmp_path: Path) -> None:
    """An optimizer's state beside the weights is skipped."""
    path = tmp_path / "with_optimizer.pth"
    torch.save({"model": {**state_of(), 7: torch.ones(1)}, "optimizer": {"state": {0: torch.ones(1)}}}, path)

    assert_filled(path, state_of())


def test_converted_files_are_found_first(tmp_path: Path) -> None:
    """A converted file is preferred under the official name of a file or folder."""
    assert tmp_path / "a.pth" == beside(tmp_path, "a.pth")
    assert tmp_path / "weights" == beside(tmp_path, "weights")
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "weights.safetensors").touch()
    assert tmp_path / "a.safetensors" == beside(tmp_path, "a.pth")
    assert tmp_path / "weights.safetensors" == beside(tmp_path, "weights")


# -- memory -------------------------------------------------------------------------------------------------------

MODEL = sum(value.nbytes for value in state_of().values())  # bytes in float32
NOISE = 4096  # bytes of offsets and the like


MAPS = Path("/proc/self/maps")
on_linux = pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells what memory is a mapped file")


class HeldTracker(StorageTracker):
    """Leaves out storages that are a mapped file: their pages are the file's, and may be reclaimed at any time."""

    def _add(self, storage: torch.UntypedStorage) -> None:
        if not is_mapped(storage):
            super()._add(storage)


def is_mapped(storage: torch.UntypedStorage) -> bool:
    """Whether a tensor's memory is a mapped weights file."""
    for line in MAPS.read_text().splitlines():
        span, *_, file = line.split()
        start, end = (int(address, 16) for address in span.split("-"))
        if start <= storage.data_ptr() < end:
            return file.endswith(SUFFIXES)
    return False


def held_while_filling(path: Path, dtype: torch.dtype) -> tuple[int, int]:
    """(peak bytes that torch allocated, bytes that remain) while a module is filled."""
    model, weights = empty_module(), find_weights(path, Stack())
    with HeldTracker() as tracker:
        fill(model, weights, device="cpu", dtype=dtype)
    return tracker.peak, tracker.live


@on_linux
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_mapped_file_of_the_wanted_dtype_is_not_copied(tmp_path: Path, suffix: str) -> None:
    """A mapped file of the requested dtype is used without a copy."""
    path = tmp_path / f"model{suffix}"
    save_file(state_of(), path) if suffix == ".safetensors" else torch.save(state_of(), path)

    peak, _ = held_while_filling(path, torch.float32)
    assert peak <= NOISE


@on_linux
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_cast_holds_the_weights_and_nothing_more(tmp_path: Path, suffix: str) -> None:
    """A mapped file is cast tensor by tensor."""
    path = tmp_path / f"model{suffix}"
    save_file(state_of(), path) if suffix == ".safetensors" else torch.save(state_of(), path)

    peak, live = held_while_filling(path, torch.bfloat16)
    assert MODEL // 2 <= live
    assert peak <= MODEL // 2 + NOISE


@on_linux
def test_shards_that_cannot_be_mapped_are_held_one_at_a_time(tmp_path: Path) -> None:
    """Files of old torch versions take the weights and one shard."""
    state, count = state_of(), 4
    files = save_shards(tmp_path, state, count=count, suffix=".bin", index=True)
    for file in files:
        torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=False)
    largest = max(file.stat().st_size for file in files)

    peak, live = held_while_filling(tmp_path, torch.bfloat16)
    assert MODEL // 2 <= live
    assert live + NOISE < peak <= live + largest + NOISE
    weights = find_weights(tmp_path, Stack())
    with HeldTracker() as tracker:
        write_safetensors(weights, tmp_path / "out.safetensors", dtype=torch.bfloat16)
    assert largest - NOISE < tracker.peak <= largest + 2 * WIDTH**2 * 4 + NOISE  # and the tensor being cast


# -- writing ------------------------------------------------------------------------------------------------------


@st.composite
def states(draw: st.DrawFn) -> dict[str, Tensor]:
    """Tensors of any storable dtype and shape, also empty ones and scalars."""
    shapes = st.lists(st.integers(0, 5), max_size=3)
    names = draw(st.lists(st.text('ab.é"\\', min_size=1, max_size=8), min_size=1, max_size=5, unique=True))
    state = {}
    for name in names:
        shape, dtype = draw(shapes), draw(st.sampled_from(list(DTYPES)))
        numbers = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
        state[name] = numbers.to(dtype)
    return state


@frozen
class Anything(WeightsFormat):
    """Whatever is in the file."""

    kind: ClassVar[str] = "anything"
    marker: ClassVar[str] = ""

    def knows(self, names: object) -> bool:
        return True


@given(state=states())
def test_what_is_written_is_what_the_library_reads(tmp_path_factory: pytest.TempPathFactory, state) -> None:
    """safetensors reads back names, dtypes, shapes and bits, in any order."""
    folder = tmp_path_factory.mktemp("written")
    torch.save(state, folder / "in.pth")
    write_safetensors(find_weights(folder / "in.pth", Anything()), folder / "out.safetensors", metadata={"a": "b"})

    got = load_file(folder / "out.safetensors")
    assert set(state) == set(got)
    assert all((state[n].dtype, state[n].shape) == (got[n].dtype, got[n].shape) for n in state)
    assert all(torch.equal(state[n].float(), got[n].float()) for n in state)
    with safe_open(folder / "out.safetensors", framework="pt") as file:
        assert {"format": "pt", "a": "b"} == file.metadata()


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    """Every tensor begins where its dtype allows reading it in place."""
    state = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(3, dtype=torch.float64), "c": torch.ones(1).half()}
    torch.save(state, tmp_path / "in.pth")
    write_safetensors(find_weights(tmp_path / "in.pth", Anything()), tmp_path / "out.safetensors")

    assert all(
        value.data_ptr() % value.element_size() == 0 for value in load_file(tmp_path / "out.safetensors").values()
    )


def test_a_wanted_dtype_changes_numbers_only(tmp_path: Path) -> None:
    """A requested dtype does not change integers."""
    torch.save({"x": torch.tensor([1.001]), "n": torch.tensor([7])}, tmp_path / "in.pth")
    write_safetensors(find_weights(tmp_path / "in.pth", Anything()), tmp_path / "out.safetensors", dtype=torch.bfloat16)

    got = load_file(tmp_path / "out.safetensors")
    assert (torch.bfloat16, torch.int64) == (got["x"].dtype, got["n"].dtype)
    assert torch.equal(torch.tensor([1.001]).bfloat16(), got["x"])


@on_linux
def test_writing_holds_one_tensor(tmp_path: Path) -> None:
    """Writing a mapped file allocates the cast of one tensor at a time."""
    torch.save(state_of(), tmp_path / "in.pth")
    weights = find_weights(tmp_path / "in.pth", Stack())
    steps: list[int] = []
    with HeldTracker() as tracker:
        write_safetensors(weights, tmp_path / "out.safetensors", dtype=torch.bfloat16, advance=steps.append)

    assert MODEL // 2 == sum(steps)
    assert tracker.peak <= 2 * max(steps) + NOISE


def test_a_dtype_that_cannot_be_stored_is_told(tmp_path: Path) -> None:
    """The error gives name and dtype of the tensor."""
    torch.save({"z": torch.zeros(1, dtype=torch.complex64)}, tmp_path / "in.pth")

    with pytest.raises(CheckpointError, match=r"holds z as torch\.complex64, which safetensors cannot store"):
        write_safetensors(find_weights(tmp_path / "in.pth", Anything()), tmp_path / "out.safetensors")
    assert ["in.pth"] == os.listdir(tmp_path)
