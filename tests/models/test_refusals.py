"""Faulty weights files end in one line each, and nothing in a file is run."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen
from safetensors.torch import save_file
from torch import Tensor, nn

from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import WeightsFormat, fill, find_weights, write_safetensors
from scalekv_core.models.weights.conversion import conversions
from scalekv_core.models.weights.states import state_dicts


@frozen
class Linear(WeightsFormat):
    """One linear layer and a counter."""

    kind: ClassVar[str] = "linear"
    marker: ClassVar[str] = "weight"
    masks: ClassVar[tuple[str, ...]] = ("mask",)


class LinearModule(nn.Linear):
    """The module that a linear layer's file fills."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("mask", torch.zeros(2))


STATE = {"weight": torch.ones(2, 3), "bias": torch.ones(2), "steps": torch.ones(1, dtype=torch.int64)}
STATE["mask"] = torch.tensor([0.0, -torch.inf])


def load(path: Path, dtype: torch.dtype = torch.float32, **options: Any) -> LinearModule:
    with torch.device("meta"):
        module = LinearModule()
    return fill(module, find_weights(path, Linear()), device="cpu", dtype=dtype, **options)


def refusal(path: Path, **options: Any) -> str:
    """The one line that says why a file is refused."""
    with pytest.raises(CheckpointError) as error:
        load(path, **options)
    message = str(error.value)
    assert "\n" not in message
    assert "weights_only" not in message, "torch's advice to run what is in the file"
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


@pytest.fixture
def no_torch_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if torch.load is reached, since its behaviour depends on its version."""

    def reached(*args: object, **options: object) -> None:
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", reached)


def rewritten(path: Path, **records: bytes) -> None:
    """The same archive of torch with these records added or replaced."""
    reader = torch._C.PyTorchFileReader(str(path))
    content = {name: reader.get_record(name) for name in reader.get_all_records() if not name.startswith(".")}
    del reader
    with torch.serialization._open_zipfile_writer(str(path)) as writer:
        for name, record in {**content, **{name.replace("_", "."): value for name, value in records.items()}}.items():
            if name != "version":
                writer.write_record(name, record, len(record))


# -- nothing is run -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_torch_load")
def test_a_torchscript_archive_is_refused(file: Path) -> None:
    """torch before 2.6 would run a TorchScript archive."""
    torch.save(STATE, file)
    rewritten(file, constants_pkl=pickle.dumps((), 2))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:  # as torch writes a program's source
        archive.writestr("archive/code/__torch__/m.py", "def forward(self): pass")

    assert f"checkpoint {file} was not loaded: it is a TorchScript archive, which is a program; save its" in refusal(
        file
    )


@pytest.mark.usefixtures("no_torch_load")
def test_an_old_tar_file_is_refused(file: Path) -> None:
    """torch before 2.6 would unpack a tar file."""
    with tarfile.open(file, "w") as archive:
        member = tarfile.TarInfo("storages")
        archive.addfile(member, io.BytesIO())

    assert f"checkpoint {file} was not loaded: it is a tar file, as torch wrote before 0.1.10; save it" in refusal(file)


REBUILD, FLOATS = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n"
TENSOR = REBUILD + b")R"
FORBIDDEN = {
    "it holds more than tensors: it asks for os.system": b"cos\nsystem\nX\x04\0\0\0true\x85R",
    "it holds more than tensors: it asks for builtins.eval": b"c__builtin__\neval\nX\x01\0\0\x001\x85R",
    "it holds more than tensors: it asks for torch.load": b"ctorch\nload\nX\x01\0\0\0a\x85R",
    "it holds more than tensors: it asks for torch._utils._rebuild_wrapper_subclass": (
        b"ctorch._utils\n_rebuild_wrapper_subclass\n)R"
    ),
    "it changes a result as if it were a dict": TENSOR + b"K\0K\1s",
    "it changes a result as if it were a list": TENSOR + b"K\1a",
    "it changes a torch.FloatStorage as if it were a dict": FLOATS + b"(K\0K\1u",
    "its pickle has the opcode NEWOBJ, which torch.save does not write": FLOATS + b")\x81",
    "its pickle has the opcode STACK_GLOBAL, which torch.save does not write": b"X\2\0\0\0osX\6\0\0\0system\x93",
    "its pickle has the opcode INST, which torch.save does not write": b"(ios\nsystem\n",
    "it is pickled with protocol 4; save it with 2, as torch.save does": b"\x80\x04N",
}


@pytest.mark.usefixtures("no_torch_load")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("reason", FORBIDDEN)
def test_a_pickle_that_does_more_than_make_tensors_is_refused(file: Path, zipped: bool, reason: str) -> None:
    """It is refused by what it looks up, before torch reads it."""
    torch.save(STATE, file, _use_new_zipfile_serialization=zipped)
    content = b"\x80\x02" + FORBIDDEN[reason] + b"."
    if zipped:
        rewritten(file, data_pkl=content)
    else:
        old = io.BytesIO(file.read_bytes())
        for _ in range(3):  # the magic number, the protocol, and what the system is like
            pickle.load(old)
        file.write_bytes(old.getvalue()[: old.tell()] + content)

    assert f"checkpoint {file} was not loaded: {reason}" in refusal(file)


@pytest.mark.usefixtures("no_torch_load")
def test_a_compressed_archive_is_refused(file: Path) -> None:
    """A few compressed bytes may unpack to any amount."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\0" * 10**6)

    assert "was not loaded: it is compressed, as torch.save never does" in refusal(file)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_state_dicts_consist_of_is_read(file: Path, zipped: bool) -> None:
    """Parameters, every storable dtype, module versions and plain values of trainers are read."""
    newer = (torch.float8_e4m3fn,) if zipped else ()  # which the old file format does not have
    dtypes = (torch.bfloat16, torch.complex64, torch.bool, *newer)
    others = {str(dtype): torch.zeros(2).to(dtype) for dtype in dtypes}
    beside = {
        "lr": 0.1,
        "sizes": (1, 2),
        "shape": torch.Size([2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
    }
    state = OrderedDict({"weight": nn.Parameter(torch.ones(2, 3)), **others})
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    torch.save({"model": state, "args": beside, "done": None}, file, _use_new_zipfile_serialization=zipped)

    assert {"weight", *others} == set(find_weights(file, Linear()).shapes)


# -- what is no checkpoint ----------------------------------------------------------------------------------------


def test_a_git_lfs_pointer_is_told(file: Path) -> None:
    """The error names the Git LFS pointer and the command."""
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 1234567\n")

    assert f"checkpoint {file} is a Git LFS pointer, not the file itself; run 'git lfs pull'" in refusal(file)


def test_an_empty_file_is_told(file: Path) -> None:
    file.touch()

    assert f"checkpoint {file} is empty; fetch it again" == refusal(file)


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    """A file name that the system refuses ends in one line."""
    message = refusal(tmp_path / ("n" * 300))
    assert "cannot be read: File name too long" in message
    assert len(message) < 200


@pytest.mark.parametrize("function", ["listdir", "stat"])
def test_a_folder_that_may_not_be_entered_is_told(tmp_path: Path, monkeypatch, function: str) -> None:
    """A folder without permission ends in one line; the system's answer is simulated."""
    folder, allowed = tmp_path / "locked", getattr(os, function)
    folder.mkdir()

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if "locked" in str(path) and (function == "listdir" or path != folder):
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(path, *args, **options)

    monkeypatch.setattr(os, function, refuse)
    path = folder if function == "listdir" else folder / "model.pth"
    assert f"checkpoint {path} cannot be read: Permission denied" == refusal(path)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        conversions(path, [Linear()])


# -- what a state dict holds --------------------------------------------------------------------------------------


def test_a_dictionary_may_hold_itself(file: Path) -> None:
    """In a cyclic dictionary each state dict is found once."""
    tree: dict[str, Any] = {"model": STATE}
    tree["trainer"] = tree["model"]["module"] = tree
    try:
        torch.save(tree, file)
        assert 2 == len(state_dicts(torch.load(file, weights_only=True)))
        assert torch.equal(STATE["weight"], load(file).weight)
    finally:
        del STATE["module"]


def test_prefixes_may_be_many(file: Path) -> None:
    """Prefixes of nested wrappers are removed."""
    torch.save({f"{'module.' * 5000}{name}": value for name, value in STATE.items()}, file)

    assert torch.equal(STATE["weight"], load(file).weight)


@pytest.mark.parametrize(
    ("name", "value", "dtypes"),
    [
        ("weight", torch.ones(2, 3, dtype=torch.int64), "int64 instead of float32"),
        ("weight", torch.ones(2, 3, dtype=torch.complex64), "complex64 instead of float32"),
        ("steps", torch.ones(1), "float32 instead of int64"),
    ],
)
def test_another_kind_of_number_is_told(file: Path, name: str, value: Tensor, dtypes: str) -> None:
    """A tensor of another kind of number is refused before the module is touched."""
    torch.save({**STATE, name: value}, file)

    assert f"does not fit its model: 1 hold another kind of number ({name}: {dtypes})" in refusal(file)


def test_a_scalar_where_a_matrix_belongs_is_told(file: Path) -> None:
    torch.save({**STATE, "weight": torch.tensor(1.0)}, file)

    assert "1 have another shape (weight: () instead of (2, 3))" in refusal(file)


def test_one_number_in_the_place_of_many_is_told(file: Path) -> None:
    """A stride of 0 is refused, since a small file could ask for any amount of memory."""
    torch.save({**STATE, "weight": torch.ones(()).expand(10**6, 10**6)}, file)

    assert f"checkpoint {file} has {file.stat().st_size} bytes, too few for weight of the shape (1000000, 1000000)" == (
        refusal(file)
    )


# -- numbers that are not finite ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_numbers_that_are_not_finite_are_refused(file: Path, number: float, dtype: torch.dtype) -> None:
    """NaN and infinity are refused anywhere in a tensor; masks may hold them, and an option accepts them."""
    weight = torch.ones(2, 3, dtype=dtype)
    weight[1, 1] = number
    torch.save({**STATE, "weight": weight}, file)

    assert f"checkpoint {file}: tensor weight has values that are not finite; fetch it again, or accept it" in refusal(
        file
    )
    assert not load(file, allow_nonfinite=True).weight.isfinite().all()


def test_numbers_that_become_infinite_in_a_dtype_are_refused(file: Path) -> None:
    """Values too large for the requested dtype are refused with the dtype named."""
    torch.save({**STATE, "weight": torch.full((2, 3), 1e6)}, file)

    message = refusal(file, dtype=torch.float16)
    assert "tensor weight has values too large for float16; load it as bfloat16 or float32" in message
    assert load(file, torch.bfloat16).weight.isfinite().all()


def test_float8_is_looked_at_too(tmp_path: Path) -> None:
    """float8, which has NaN but no infinity, is checked."""
    weight = torch.full((2, 3), torch.nan).to(torch.float8_e4m3fn)
    save_file({**STATE, "weight": weight}, tmp_path / "model.safetensors")

    assert "tensor weight has values that are not finite" in refusal(tmp_path / "model.safetensors")


def test_a_conversion_does_not_make_infinities(file: Path, tmp_path: Path) -> None:
    """Converting values too large for the dtype is an error; infinite ones are copied."""
    torch.save({**STATE, "weight": torch.full((2, 3), 1e6)}, file)
    weights = find_weights(file, Linear())

    with pytest.raises(CheckpointError, match="tensor weight has values too large for float16"):
        write_safetensors(weights, tmp_path / "out.safetensors", dtype=torch.float16)
    write_safetensors(weights, tmp_path / "out.safetensors", dtype=torch.bfloat16)
