"""What ``scalekv check`` is to check: strategies by name, by ``module:Class``, with options and a test model."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekv_core.errors import InputError, first_line, unknown_name

if TYPE_CHECKING:
    from scalekv_core.plugins.registry import Registry
    from scalekv_core.testing.testmodels import TestModel
    from scalekv_core.testing.trying import Subject


def subjects_of(
    name: str, kind: str | None, *, options: Iterable[str] = (), model: str | None = None
) -> Iterator[tuple[Subject, str]]:
    """What is to be checked, and who offers it.

    Raises:
        UnknownName: nothing has that name, or not of that kind.
        InputError, PluginError: it cannot be imported or made, or is no strategy.
    """
    from scalekv_core.cli.installed import the_registry
    from scalekv_core.testing.kinds import KINDS
    from scalekv_core.testing.subjects import registered

    given, test_model = read_options(options), None if model is None else test_model_in(model)
    if ":" in name:
        yield _imported(name, kind, given, test_model), "not registered"
        return
    registry: Registry = the_registry()
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind of strategy", kind, KINDS)
    kinds = [one for one in KINDS if (one, name) in registry.offers and kind in (None, one)]
    if not kinds:
        known = {known for of, known in registry.offers if kind in (None, of)}
        raise unknown_name(kind or "strategy", name, known, hint=_problems(registry))
    if given and len(kinds) > 1:
        raise InputError(f"{name!r} is a {' and a '.join(kinds)}; say which one the options are for, with --kind")
    for one in kinds:
        yield registered(registry, one, name, test_model, given), str(registry.offer(one, name).owner)


def read_options(options: Iterable[str]) -> dict[str, str]:
    """{name: text} of NAME=VALUE words."""
    given = {}
    for word in options:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InputError(f"an option is written NAME=VALUE; got {word!r}")
        given[name] = value
    return given


def test_model_in(place: str) -> TestModel:
    """The TestModel at FILE:NAME.

    Raises:
        InputError: there is no such file, it cannot be run, or holds no TestModel of that name.
    """
    from scalekv_core.testing.testmodels import TestModel

    file, _, name = place.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file) if file.endswith(".py") else None
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise InputError(f"a test model is given as FILE.py:NAME; got {place!r}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(file).resolve().parent))
    try:
        spec.loader.exec_module(module)
        found = getattr(module, name)
    except Exception as error:  # whatever a foreign file raises
        raise InputError(f"{place!r} cannot be loaded ({type(error).__name__}: {first_line(error)})") from error
    finally:
        sys.path.pop(0)
    if not isinstance(found, TestModel):
        raise InputError(f"{place!r} must be a scalekv_core.testing.TestModel; got {type(found).__name__}")
    return found


def _problems(registry: Registry) -> str:
    return "".join(f"\n{problem}" for problem in registry.problems)


def _imported(name: str, kind: str | None, options: dict[str, str], test_model: TestModel | None) -> Subject:
    """The class or function at ``module:name``, found from the current directory too."""
    from scalekv_core.testing.subjects import Factory, kind_in_time
    from scalekv_core.testing.trying import Subject

    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")
    try:
        factory: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a foreign module raises
        raise InputError(f"{name!r} cannot be made ({type(error).__name__}: {first_line(error)})") from error
    finally:
        sys.path.remove("")
    make = Factory(factory, name, tuple(options.items()))
    found = kind_in_time(make, name)
    if kind not in (None, found):
        raise InputError(f"{name!r} is a {found}, not a {kind}; give --kind {found}")
    return Subject(found, name, make, test_model, tuple(f"{option}={value}" for option, value in options.items()))
