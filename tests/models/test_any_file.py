"""Any file or index is either read or refused in one line, without another exception and without running anything."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen
from hypothesis import example, given
from hypothesis import strategies as st

from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import WeightsFormat, find_weights
from scalekv_core.models.weights.pickles import Forbidden, check_pickle


@frozen
class Anything(WeightsFormat):
    """A module that accepts any tensors."""

    kind: ClassVar[str] = "anything"
    marker: ClassVar[str] = "a"

    def knows(self, names: object) -> bool:
        return True


def read(path: Path) -> None:
    """Reads all tensors of a file or folder, or raises the one-line error."""
    said = ""
    try:
        for state in find_weights(path, Anything()).shards():
            assert all(value.nbytes < MOST_BYTES for value in state.values())
    except CheckpointError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 1000


MOST_BYTES = 2**20
"""Far more than any of these files has."""
DTYPES = st.sampled_from(
    ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "U16", "BOOL", "C64", "F4", "X", "")
)
NUMBERS = st.integers(-1, 9) | st.sampled_from((2**31, 2**63, 2**64, 1.5))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
ENTRIES = st.fixed_dictionaries(
    {"dtype": DTYPES, "shape": st.lists(NUMBERS, max_size=4), "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2)}
)


@given(
    header=st.dictionaries(st.sampled_from(("a", "b", "__metadata__", "\n", "é" * 99)), ENTRIES | JSON, max_size=3)
    | JSON,
    length=st.none() | st.sampled_from((0, 1, 2**31, 2**63, 2**64 - 1)),
    data=st.binary(max_size=64),
)
@example(header={"a": {"dtype": "F64", "shape": [0, 2**63], "data_offsets": [0, 0]}}, length=None, data=b"")
def test_any_safetensors_header(tmp_path_factory, header: Any, length: int | None, data: bytes) -> None:
    """Headers whose dtypes, shapes and offsets disagree, and other headers."""
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    read(path)


FILES = st.sampled_from(("a.bin", "b.bin", "", ".", "..", "../a.bin", "/etc/passwd", "a\0b", "n" * 300, "\n"))


@given(
    index=st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=3), FILES | JSON, max_size=3)}) | JSON
)
@example("[" * 100_000)
@example('{"weight_map": {"a": ' + "9" * 5000 + "}}")
@example('{"weight_map": {"a": "' + "n" * 10**6 + '"}}')
def test_any_index(tmp_path_factory, index: Any) -> None:
    """Indices that name no files, and JSON that is not an index."""
    folder = tmp_path_factory.mktemp("any")
    torch.save({"a": torch.ones(2)}, folder / "a.bin")
    text = index if isinstance(index, str) else json.dumps(index)
    (folder / "pytorch_model.bin.index.json").write_text(text, encoding="utf-8")
    read(folder)


ALL_OPCODES = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])
USUAL = st.sampled_from(
    (b"}", b"]", b"(", b")", b"t", b"R", b"Q", b"b", b"s", b"u", b"a", b"e", b"q\0", b"h\0", b"N", b"K\1")
)
NAMES = st.sampled_from(
    (
        *(
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ccollections\nOrderedDict\n",
            b"ctorch\nFloatStorage\n",
            b"ctorch\nfloat32\n",
        ),
        *(
            b"cos\nsystem\n",
            b"cbuiltins\ngetattr\n",
            b"ctorch\nload\n",
            b"ctorch.storage\n_load_from_bytes\n",
            b"X\1\0\0\0a",
        ),
    )
)


class Recording(pickle.Unpickler):
    """Python's own unpickler, which records what it looks up and replaces results by dictionaries."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.asked: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.asked.add(f"{module}.{name}")
        return dict if name == "OrderedDict" else lambda *args: Inert()

    def persistent_load(self, pid: Any) -> Any:
        return Inert()


class Inert:
    """A result that must not be changed."""

    def __setitem__(self, key: object, value: object) -> None:
        raise AssertionError("an item of a tensor was assigned")

    def __setstate__(self, state: object) -> None:
        raise AssertionError("the state of a tensor was replaced")


@given(parts=st.lists(USUAL | USUAL | NAMES | ALL_OPCODES, max_size=25))
@example([b"c__builtin__\neval\n", b"X\1\0\0\0a", b"\x85", b"R"])
@example([b"ctorch\nFloatStorage\n", b")", b"R", b"K\1", b"K\1", b"s"])
def test_a_pickle_that_passes_asks_for_nothing_and_changes_nothing(parts: list[bytes]) -> None:
    """A pickle that is accepted only makes containers and calls what makes tensors."""
    content = b"\x80\x02" + b"".join(parts) + b"."
    try:
        check_pickle(io.BytesIO(content))
    except (Forbidden, Exception):
        return
    recording = Recording(content)
    try:
        recording.load()
    except AssertionError:
        raise
    except Exception:  # damaged for one and not the other
        pass
    assert recording.asked <= {
        "torch._utils._rebuild_tensor_v2",
        "collections.OrderedDict",
        "torch.FloatStorage",
        "torch.float32",
    }


@pytest.mark.parametrize("zipped", [True, False])
@given(parts=st.lists(USUAL | NAMES | ALL_OPCODES, max_size=12))
def test_any_pickle_in_a_file(tmp_path_factory, zipped: bool, parts: list[bytes]) -> None:
    """The file is read or refused."""
    path = tmp_path_factory.mktemp("any") / "model.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    content, whole = b"\x80\x02" + b"".join(parts) + b".", path.read_bytes()
    if zipped:
        with torch.serialization._open_zipfile_writer(str(path)) as archive:
            archive.write_record("data.pkl", content, len(content))
            archive.write_record("version", b"3", 1)
    else:
        header = io.BytesIO(whole)
        for _ in range(3):
            pickle.load(header)
        path.write_bytes(whole[: header.tell()] + content + pickle.dumps([], 2))
    read(path)
