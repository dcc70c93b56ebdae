"""Finds state that a strategy keeps: the contents of its instance, its class and its module.

Strategies are values; a lookup table that depends on shapes alone is harmless, everything else that survives an image is a
fault. Whether something survives is seen from outside: the contents are compared before and after, and put back as they
were, so that an image can be asked for as if it were the first.
"""

from __future__ import annotations

import collections
import inspect
import itertools
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from attrs import frozen
from torch import Tensor, nn

_KNOWN = ("torch", "numpy", "attr", "attrs", "hypothesis", "pytest", "scalekv_core", *sys.stdlib_module_names)
"""Top-level packages that are not part of a strategy."""
_CONTAINERS = (dict, list, set, collections.deque, bytearray)
DEPTH = 6
"""How deep nested containers are searched."""


def is_foreign(module: str) -> bool:
    """Whether a module is a user's: neither Python's, nor torch's, nor scalekv_core's."""
    return module.partition(".")[0] not in _KNOWN


def _is_own(module: str) -> bool:
    return is_foreign(module) or module.startswith("scalekv_core.testing.toy")


@frozen(eq=False)
class Place:
    """A namespace or container and what it holds.

    Attributes:
        name: for messages.
        holder: the object itself.
        contents: a copy of what it holds, one level deep.
    """

    name: str
    holder: Any
    contents: Any


@frozen(eq=False)
class Contents:
    """Everything that a strategy could keep state in, with its present contents."""

    places: tuple[Place, ...]

    @classmethod
    def of(cls, *strategies: Any) -> Contents:
        """The contents of these strategies, their parts, their classes, and the modules that define them."""
        return cls(tuple(_places(strategies)))

    def restore(self) -> None:
        """Restores the contents."""
        for place in self.places:
            _put_back(place)

    def changes(self, later: Contents) -> list[str]:
        """Names of what was added, removed or replaced."""
        before = {place.name: place.contents for place in self.places}
        after = {place.name: place.contents for place in later.places}
        names = [name for name in before.keys() | after.keys() if name not in before or name not in after]
        names += [name for name in before.keys() & after.keys() if not _alike(before[name], after[name])]
        return sorted(names)


def _places(strategies: Iterable[Any]) -> Iterator[Place]:
    seen: set[int] = set()
    for strategy in strategies:
        for value in (strategy, *getattr(strategy, "parts", {}).values()):
            name = type(value).__name__
            yield from _opened(name, value, seen, DEPTH)
            for base in type(value).__mro__:
                if _is_own(base.__module__):
                    yield from _namespace(f"class {base.__name__}", base, seen)
            for module in _modules_of(type(value)):
                yield from _namespace(f"module {module.__name__}", module, seen)


def _modules_of(cls: type) -> Iterator[types.ModuleType]:
    """The modules of a class and its bases, and those of the same package that they import from."""
    for base in cls.__mro__:
        module = sys.modules.get(base.__module__)
        if module is None or not _is_own(base.__module__):
            continue
        yield module
        package = base.__module__.partition(".")[0]
        for value in list(vars(module).values()):
            origin = getattr(value, "__module__", None)
            other = sys.modules.get(origin) if isinstance(origin, str) else None
            if other is not None and other.__name__.partition(".")[0] == package:
                yield other


def _namespace(name: str, holder: Any, seen: set[int]) -> Iterator[Place]:
    """The attributes of a class or module except code, and what their containers hold."""
    if id(holder) in seen:
        return
    seen.add(id(holder))
    data = {key: value for key, value in list(vars(holder).items()) if _is_data(key, value)}
    yield Place(name, holder, data)
    for key, value in list(vars(holder).items()):
        if isinstance(value, (classmethod, staticmethod)):
            value = value.__func__
        if callable(value) and _is_own(getattr(value, "__module__", None) or ""):
            yield from _function(f"{name}.{key}", value, seen)
        elif _is_data(key, value):
            yield from _opened(f"{name}.{key}", value, seen, DEPTH)


def _function(name: str, function: Callable[..., Any], seen: set[int]) -> Iterator[Place]:
    """State of a function: its attributes, its defaults, the variables that it closes over, its cache."""
    if hasattr(function, "cache_info") and hasattr(function, "cache_clear"):
        yield Place(f"{name}'s cache", function, function.cache_info().currsize)
    inner = inspect.unwrap(function)
    if not isinstance(inner, types.FunctionType) or id(inner) in seen:
        return
    seen.add(id(inner))
    attributes = {key: value for key, value in vars(inner).items() if key != "__wrapped__"}
    yield from _opened(f"{name}'s attributes", attributes, seen, DEPTH)
    for value in (*(inner.__defaults__ or ()), *(inner.__kwdefaults__ or {}).values()):
        yield from _opened(f"{name}'s defaults", value, seen, DEPTH)
    for cell in inner.__closure__ or ():
        try:
            yield from _opened(f"{name}'s closure", cell.cell_contents, seen, DEPTH)
        except ValueError:  # not filled yet
            continue


def _is_data(name: str, value: Any) -> bool:
    code = (type, types.ModuleType, types.FunctionType, classmethod, staticmethod, property, types.BuiltinFunctionType)
    if name.startswith("__") or name in ("_abc_impl",) or isinstance(value, (*code, types.MemberDescriptorType)):
        return False
    return not hasattr(value, "cache_info") and not hasattr(type(value), "__get__")


def _opened(name: str, value: Any, seen: set[int], depth: int) -> Iterator[Place]:
    """A container or an instance of a foreign class, and what is in it."""
    if depth == 0 or id(value) in seen:
        return
    if isinstance(value, (Tensor, np.ndarray)):
        seen.add(id(value))
        yield Place(name, value, _copied(value))
    elif isinstance(value, _CONTAINERS):
        seen.add(id(value))
        yield Place(name, value, value.copy())
        for i, item in enumerate(list(value.values() if isinstance(value, dict) else value)):
            yield from _opened(f"{name}[{i}]", item, seen, depth - 1)
    elif isinstance(value, itertools.count):
        yield Place(name, value, repr(value))
    elif isinstance(value, (tuple, frozenset)):
        for i, item in enumerate(value):
            yield from _opened(f"{name}[{i}]", item, seen, depth - 1)
    elif isinstance(value, types.FunctionType):
        yield from _function(name, value, seen)
    elif _is_instance(value):
        seen.add(id(value))
        fields = _fields_of(value)
        yield Place(name, value, fields)
        for key, item in fields.items():
            yield from _opened(f"{name}.{key}", item, seen, depth - 1)


def _is_instance(value: Any) -> bool:
    cls = type(value)
    if isinstance(value, (type, types.ModuleType, nn.Module)):
        return False
    return _is_own(cls.__module__) or isinstance(value, threading.local)


def _fields_of(value: Any) -> dict[str, Any]:
    fields = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__weakref__", "__dict__") and hasattr(value, slot):
                fields[slot] = getattr(value, slot)
    return fields


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value.copy()


def _put_back(place: Place) -> None:
    holder, contents = place.holder, place.contents
    if isinstance(holder, itertools.count):
        return  # it cannot be set
    if hasattr(holder, "cache_clear"):
        holder.cache_clear()
    elif isinstance(holder, Tensor):
        holder.detach().copy_(contents)
    elif isinstance(holder, np.ndarray):
        if holder.flags.writeable:
            holder[...] = contents
    elif isinstance(holder, dict):
        holder.clear()
        holder.update(contents)
    elif isinstance(holder, (list, collections.deque, bytearray)):
        holder.clear()
        holder.extend(contents)
    elif isinstance(holder, set):
        holder.clear()
        holder |= contents
    elif isinstance(holder, (type, types.ModuleType)):
        _put_back_namespace(holder, contents)
    else:
        for name, value in contents.items():
            if getattr(holder, name, None) is not value:
                object.__setattr__(holder, name, value)
        for name in set(getattr(holder, "__dict__", {})) - set(contents):
            object.__delattr__(holder, name)


def _put_back_namespace(holder: Any, contents: dict[str, Any]) -> None:
    now = {name: value for name, value in vars(holder).items() if _is_data(name, value)}
    for name in now.keys() - contents.keys():
        type.__delattr__(holder, name) if isinstance(holder, type) else delattr(holder, name)
    for name, value in contents.items():
        if name not in now or now[name] is not value:
            type.__setattr__(holder, name, value) if isinstance(holder, type) else setattr(holder, name, value)


def _alike(one: Any, other: Any) -> bool:
    """Whether two copies of contents are the same: by identity, or as plain numbers, texts and arrays."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple, collections.deque)):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, (bool, int, float, complex, str, bytes, bytearray, set, frozenset)):
        return bool(one == other)
    return False
