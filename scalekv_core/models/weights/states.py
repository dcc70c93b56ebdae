"""State dicts in what a file holds: at its top, or under the names that trainers and wrappers put around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

State = Mapping[str, Tensor]
NESTINGS = ("trainer", "gpt_fsdp", "gpt_wo_ddp", "var_wo_ddp", "vae_local", "vae", "state_dict", "model", "module")
"""Where trainers put a state dict; averaged twins ("ema") are not among them, as in the official loaders."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


def state_dicts(tree: Mapping[str, Any]) -> list[State]:
    """Every state dict that a file may be said to hold: itself, and those inside it under the names that trainers use."""
    stripped = (strip_prefixes(level) for level in nested(tree))
    return [
        {name: value for name, value in level.items() if isinstance(name, str) and isinstance(value, Tensor)}
        for level in stripped
    ]


def nested(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The mapping itself and those inside it under the names that trainers use, each once.

    A mapping may hold itself: a pickle can say so.

    >>> tree = {"model": {"head": 1}}
    >>> tree["trainer"] = tree
    >>> list(nested(tree)) == [tree, {"head": 1}]
    True
    """
    waiting, seen = [tree], {id(tree)}
    while waiting:
        level = waiting.pop()
        yield level
        inside = [level[name] for name in NESTINGS if isinstance(level.get(name), Mapping)]
        new = [one for one in {id(one): one for one in inside}.values() if id(one) not in seen]
        seen.update(map(id, new))
        waiting += reversed(new)


def strip_prefixes(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same mapping without the prefixes that wrappers put before every name.

    >>> strip_prefixes({"module._orig_mod.head": 1})
    {'head': 1}
    """
    while prefix := next((prefix for prefix in PREFIXES if _all_start_with(prefix, state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _all_start_with(prefix: str, state: Mapping[str, Any]) -> bool:
    return bool(state) and all(isinstance(name, str) and name.startswith(prefix) for name in state)


def some(names: Iterable[object]) -> str:
    """The first three names, and that there are more.

    >>> some(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return (", ".join(_printable(str(name)) for name in listed[:3]) or "nothing") + more


def _printable(name: str) -> str:
    """A name as it can stand in a line: those of damaged files may hold anything."""
    return name if name.isprintable() and len(name) < 100 else f"{name[:100]!r}"
