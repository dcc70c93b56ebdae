"""What a PyTorch file may ask of the unpickler, checked before torch reads it.

A pickle is a program. ``torch.load(weights_only=True)`` refuses most of what such a program could do, but how much depends
on the version of torch: before 2.6 it runs TorchScript archives and unpacks tar files (CVE-2025-32434), before 2.10 it
assigns items to whatever the program names (CVE-2026-24747). So this module allows only what builds tensors and plain
containers, whatever the version.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch

TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
"""The functions of ``torch._utils`` that make dense tensors."""
DICTS = ("collections.OrderedDict", "collections.Counter")
PLAIN = ("torch.Size", "torch.device", "builtins.set", "builtins.complex", "builtins.bytearray", "_codecs.encode")
STORAGE = re.compile(r"torch\.(cuda\.|storage\.)?[A-Z][A-Za-z0-9]*Storage")
OLD_PICKLES = 5
"""Pickles at the start of a file of torch before 1.6: magic number, protocol, system, content, keys of the storages."""

CONSTANTS = ("NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE")
PUSHED = {
    **dict.fromkeys((*CONSTANTS, "SHORT_BINSTRING", "EMPTY_TUPLE", "EMPTY_SET"), "constant"),
    "EMPTY_LIST": "list",
    "EMPTY_DICT": "dict",
    "MARK": "mark",
}
"""{opcode that only pushes: the kind of value that it pushes}."""
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
FILLED = {"APPEND": ("list", 1), "APPENDS": ("list", None), "SETITEM": ("dict", 2), "SETITEMS": ("dict", None)}
"""{opcode that fills a container: (its kind, how many values it takes; None takes all up to the mark)}."""


class Forbidden(Exception):
    """A file asks for more than tensors and plain containers; the text says for what."""


def check_archive(path: Path) -> None:
    """Checks a zip file, which torch writes since 1.6, with the reader that ``torch.load`` uses.

    Raises:
        Forbidden: it is a TorchScript archive, is compressed, or its pickle asks for more than tensors.
        Exception: it is damaged.
    """
    with zipfile.ZipFile(path) as listed:
        if any(name.rpartition("/")[2] == "constants.pkl" for name in listed.namelist()):
            raise Forbidden("it is a TorchScript archive, which is a program; save its state_dict() instead")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in listed.infolist()):
            raise Forbidden("it is compressed, as torch.save never does")
    archive = torch._C.PyTorchFileReader(str(path))
    check_pickle(BytesIO(archive.get_record("data.pkl")))


def check_old_file(path: Path) -> None:
    """Checks a file of torch before 1.6.

    Raises:
        Forbidden: it is a tar file, or a pickle asks for more than tensors.
        Exception: it is damaged.
    """
    with path.open("rb") as file:
        if _is_tar(file.read(tarfile.BLOCKSIZE)):
            raise Forbidden("it is a tar file, as torch wrote before 0.1.10; save it again with a newer torch")
        file.seek(0)
        for _ in range(OLD_PICKLES):
            check_pickle(file)


def check_pickle(file: IO[bytes]) -> None:
    """Follows one pickle through its opcodes, with the kind of each value in the place of the value; runs nothing.

    Raises:
        Forbidden: it asks for a name that builds no tensor, calls something else, or changes anything but lists and dicts.
        Exception: it is damaged.
    """
    followed = _Followed()
    for opcode, argument, _ in pickletools.genops(file):
        followed.step(opcode.name, argument)


class _Followed:
    """The stack and the memo of an unpickler, holding kinds: "dict", "list", ..., or the full name of a global."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.memo: dict[int, str] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Does to the kinds what an opcode does to the values."""
        match opcode:
            case "STOP":
                return
            case "PROTO":
                if argument != 2:
                    raise Forbidden(f"it is pickled with protocol {argument}; save it with 2, as torch.save does")
            case "GLOBAL":
                self.stack.append(_checked(argument))
            case "REDUCE":
                function = self.take(2)[1]
                self.stack.append("dict" if _checked(function) in DICTS else "result")
            case "BINPERSID":
                self.take(1)
                self.stack.append("storage")
            case "BUILD":  # an OrderedDict has attributes: versions of modules, in a state dict
                self.take(1)
                self.check_top("dict")
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "TUPLE":
                self.take(None)
                self.stack.append("constant")
            case _ if opcode in TUPLES:
                self.take(TUPLES[opcode])
                self.stack.append("constant")
            case _ if opcode in FILLED:
                kind, count = FILLED[opcode]
                self.take(count)
                self.check_top(kind)
            case _ if opcode in PUSHED:
                self.stack.append(PUSHED[opcode])
            case _:
                raise Forbidden(f"its pickle has the opcode {opcode}, which torch.save does not write")

    def take(self, count: int | None) -> list[str]:
        """The last values, off the stack; None takes all up to the mark."""
        taken: list[str] = []
        while count is None or len(taken) < count:
            taken.append(self.stack.pop())
            if taken[-1] == "mark":
                if count is None:
                    break
                raise pickle.UnpicklingError("a mark where a value belongs")
        return taken

    def check_top(self, kind: str) -> None:
        if self.stack[-1] != kind:
            raise Forbidden(f"it changes a {self.stack[-1]} as if it were a {kind}")


def _checked(name: str) -> str:
    """The full name of a global, if it only builds tensors, dtypes, storages and plain containers; else Forbidden."""
    full = name.replace(" ", ".").replace("__builtin__", "builtins")
    module, _, last = full.rpartition(".")
    is_tensor = module == "torch._utils" and last in TENSORS
    is_dtype = module == "torch" and isinstance(getattr(torch, last, None), torch.dtype)
    if is_tensor or is_dtype or full in DICTS or full in PLAIN or STORAGE.fullmatch(full):
        return full
    raise Forbidden(f"it holds more than tensors: it asks for {full[:100]}")


def _is_tar(block: bytes) -> bool:
    """Whether a file that begins with this block would be opened as a tar file."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
