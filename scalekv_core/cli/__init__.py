"""The command line: names in, pictures and tables out. It knows no policy and no model; the registry does.

One module per command, each with a function of the module's name; ``app`` lists them. What several commands share is in
``arguments`` (options), ``loading`` (models, prompts, seeds), ``drawing`` (full and compressed images) and ``console``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 done, 1 out of memory or a doctor's finding, 2 a user's mistake, 130 interrupted.

    Args:
        argv: the arguments; those of the process by default.
    """
    from scalekv_core.cli.app import make_app

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        make_app(arguments)(args=arguments, prog_name="scalekv", obj=tuple(arguments))
    except KeyboardInterrupt:  # before a command has begun; commands see to it themselves
        sys.exit(130)
    sys.exit(0)
