"""Compares answers with those of another process; they differ if a strategy uses hashes of texts, ids or the clock.

``python -m scalekv_core.testing.elsewhere`` reads a pickled job from standard input and writes a digest.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scalekv_core.testing.common import NotApplicable

Ask = Callable[[Any, Any], list[Tensor]]
"""(strategy, case) -> the strategy's answer."""


def digests(ask: Ask, make: Callable[[], Any], cases: Sequence[Any]) -> list[str]:
    """A digest of the answer for each case; "" where the question does not apply."""
    found = []
    for case in cases:
        try:
            answers = ask(make(), case)
        except NotApplicable:
            found.append("")
            continue
        digest = hashlib.sha256()
        for x in answers:
            digest.update(f"{x.dtype} {tuple(x.shape)}".encode())
            digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        found.append(digest.hexdigest())
    return found


def elsewhere(ask: Ask, make: Callable[[], Any], cases: Sequence[Any]) -> list[str]:
    """The same digests from a new process with another seed of Python's hashes.

    Raises:
        NotApplicable: the strategy cannot be sent there, since it is not found by its name.
    """
    job = (ask, _sendable(make), [(type(case), str(case)) for case in cases])
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", "-m", __name__]
    done = subprocess.run(command, input=pickle.dumps(job), env=environment, capture_output=True, check=False)
    lines = done.stdout.decode().splitlines()
    answer = next((line.removeprefix("digests:") for line in lines if line.startswith("digests:")), None)
    if answer is None:
        why = done.stderr.decode().strip().splitlines() or ["no answer"]
        raise NotApplicable(f"it cannot be made in another process ({why[-1]})")
    return answer.split(",")


def agrees_elsewhere(ask: Ask, make: Callable[[], Any], cases: Sequence[Any], otherwise: str) -> None:
    """Another process answers the same; AssertionError that says what it does ``otherwise``.

    Raises:
        NotApplicable: the strategy cannot be sent there.
    """
    assert digests(ask, make, cases) == elsewhere(ask, make, cases), (
        f"another process {otherwise}: it depends on the hash of a text, on an id or on the clock"
    )


def _sendable(make: Callable[[], Any]) -> Any:
    """The factory, or where it has no name of its own what it makes; NotApplicable if neither can be sent."""
    for what in (make, _Made(make)):
        try:
            pickle.dumps(what)
        except Exception:  # whatever a foreign class raises
            continue
        return what
    raise NotApplicable("it cannot be sent to another process: it is defined inside of a function")


class _Made:
    """A factory of one value."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.made = make()

    def __call__(self) -> Any:
        return self.made


def main() -> None:
    """Answers the job on standard input."""
    torch.set_num_threads(1)
    ask, make, lines = pickle.load(sys.stdin.buffer)
    cases = [cls.parse(line) for cls, line in lines]
    print("digests:" + ",".join(digests(ask, make, cases)))


if __name__ == "__main__":
    main()
