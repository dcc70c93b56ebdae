"""Processor seconds that the small commands take, beside importing torch and generating: ``python tests/bench/start_times.py``.

Nothing is asserted, since times depend on the machine. Every command is a process of its own; the best of some runs counts.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from scalekv_core.cli.application import COMMANDS

RUNS = 3
GENERATE = """
import sys, time, torch
from scalekv_core.cli import main
from scalekv_core.plugins.registry import load_model

spent, cls = 0.0, type(load_model("var-tiny"))
generate = cls.generate
def timed(*args, **kwargs):
    global spent
    start = time.process_time()
    try:
        return generate(*args, **kwargs)
    finally:
        spent += time.process_time() - start
cls.generate = timed
try:
    main(["generate", "3", "--out", sys.argv[1]])
except SystemExit:
    print(f"generating {spent}", file=sys.stderr)
"""


def seconds(*command: str) -> tuple[float, str]:
    """Processor seconds of a process and its children, the best of some runs, and what the last one said on stderr."""
    best, said = float("inf"), ""
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best, said


def scalekv(*arguments: str) -> Sequence[str]:
    """The command line in a process of its own."""
    return (sys.executable, "-m", "scalekv_core", *arguments)


def main() -> None:
    """Prints one line per command."""
    torch, _ = seconds(sys.executable, "-c", "import torch")
    print(f"{torch:6.2f}  import torch")
    for arguments in (["--help"], *([name, "--help"] for name in COMMANDS)):
        print(f"{seconds(*scalekv(*arguments))[0]:6.2f}  scalekv {' '.join(arguments)}")
    for name in ("policies", "models"):
        took = seconds(*scalekv(name))[0]
        print(f"{took:6.2f}  scalekv {name}, of which {took - torch:.2f} beside importing torch")
    with tempfile.TemporaryDirectory() as out:
        took, said = seconds(sys.executable, "-c", GENERATE, out)
    generating = float(said.split()[-1])
    print(
        f"{took:6.2f}  scalekv generate 3, of which {generating:.2f} generating and "
        f"{took - torch - generating:.2f} beside that and importing torch"
    )


if __name__ == "__main__":
    main()
