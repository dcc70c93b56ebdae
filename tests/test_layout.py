"""The house rules that a reader cannot see: who imports whom, what importing does, and what the hot path never does."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import pytest

import scalekv_core
from scalekv_core import Registry
from scalekv_core.plugins.offers import HOOKS

ROOT = Path(__file__).parents[1]
ROOMS = {
    "scalekv_core": ROOT / "scalekv_core",
    "scalekv_policies": ROOT / "policies" / "scalekv_policies",
    "scalekv_adapters": ROOT / "adapters" / "scalekv_adapters",
}
MAY_IMPORT = {
    "scalekv_core": {"scalekv_core"},
    "scalekv_policies": {"scalekv_core", "scalekv_policies"},
    "scalekv_adapters": {"scalekv_core", "scalekv_adapters"},
}
TEST_TOOLS = {"hypothesis", "pytest", "_pytest"}
MODULES = [path for folder in ROOMS.values() for path in sorted(folder.rglob("*.py"))]
HOT_MODULES = (
    *(f"ops/{name}.py" for name in ("attention", "chunks", "folding", "likeness", "tokens")),
    *(
        f"cache/{name}.py"
        for name in ("answers", "eviction", "inputs", "key_values", "kv_cache", "prefetch", "reading")
    ),
    *(f"contracts/{name}.py" for name in ("encoded", "tables", "view")),
)
WAITS = {"item", "cpu", "tolist", "numpy", "nonzero", "synchronize", "warn"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(path: Path) -> str:
    return next(room for room, folder in ROOMS.items() if folder in path.parents)


def imports(tree: ast.AST) -> Iterator[str]:
    """The top-level packages that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide which room is meant"
            yield (node.module or "").split(".")[0]


def texts(tree: ast.AST) -> Iterator[str]:
    """String constants that are no docstrings: an import by name hides in one."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    """Policies and adapters import core, never each other; core imports neither, not even by a name in a string."""
    room, tree = room_of(path), tree_of(path)
    ours = set(imports(tree)) & set(ROOMS)

    assert set() == ours - MAY_IMPORT[room]
    others = set(ROOMS) - MAY_IMPORT[room]
    named = [text for text in texts(tree) if text not in HOOKS.values()]  # one hook is called as one room is
    assert [] == [text for text in named if any(other in text for other in others)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_test_tools_are_imported_by_the_kit_only(path: Path) -> None:
    """pytest and hypothesis are an extra; only scalekv_core.testing may want them."""
    if ROOMS["scalekv_core"] / "testing" not in path.parents:
        assert set() == set(imports(tree_of(path))) & TEST_TOOLS


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_opens_with_why_it_exists(path: Path) -> None:
    """Every module has a docstring; an empty __init__ has nothing to explain."""
    tree = tree_of(path)

    assert not tree.body or ast.get_docstring(tree)


def modules(tree: ast.AST) -> Iterator[str]:
    """The full names of the modules that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FAMILIES = [path.name for path in ROOMS["scalekv_adapters"].iterdir() if (path / "adapter.py").is_file()]
ADAPTERS = [path for path in MODULES if ROOMS["scalekv_adapters"] in path.parents]


@pytest.mark.parametrize("path", ADAPTERS, ids=name_of)
def test_adapters_import_no_command_line_no_recipe_and_no_other_family(path: Path) -> None:
    """What families share stands beside them; only the package's ``__init__`` and its metric import every family."""
    shelf = ROOMS["scalekv_adapters"]
    own = path.relative_to(shelf).parts[0]
    forbidden = ["scalekv_core.cli", "recipes"]
    if path not in (shelf / "__init__.py", shelf / "judge.py"):
        forbidden += [f"scalekv_adapters.{family}" for family in FAMILIES if family != own]
    names = list(modules(tree_of(path)))

    assert ["hart", "infinity", "infinitystar", "var"] == sorted(FAMILIES)
    assert [] == [name for name in names for banned in forbidden if f"{name}.".startswith(f"{banned}.")]


SHELVES = {"policies": {"scalekv_policies"}, "adapters": {"scalekv_adapters", "recipes"}}


@pytest.mark.parametrize("shelf", SHELVES)
def test_a_shelf_is_no_package(shelf: str) -> None:
    """``adapters`` is another project's package on PyPI, so our folder of that name is no package."""
    assert not list((ROOT / shelf).glob("*.py"))
    assert (ROOT / shelf / "README.md").is_file()
    assert SHELVES[shelf] == {p.name for p in (ROOT / shelf).iterdir() if p.is_dir() and p.name != "__pycache__"}


def test_the_wheel_holds_the_rooms_and_no_recipe() -> None:
    """How the small models were trained is in the repository only."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    shipped = build["targets"]["wheel"]["packages"]

    assert {"wheel"} == set(build["targets"])
    assert [str(folder.relative_to(ROOT)) for folder in ROOMS.values()] == shipped


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_typed(room: str) -> None:
    """Who uses it has its types checked."""
    assert (ROOMS[room] / "py.typed").is_file()


def test_the_rooms_enter_by_the_door_of_any_plugin() -> None:
    """One entry point for each room, one for the metrics of core, and nothing that core knows beforehand."""
    owners = {owner.plugin for owner in Registry.installed().owners if owner.distribution == "scalekv"}

    assert {"scalekv-policies", "scalekv-adapters", "scalekv-metrics"} == owners


IMPORT = """
import builtins, json, sys
import attrs, cattrs, numpy, pluggy, safetensors.numpy, safetensors.torch, torch, torch.nn.functional, torch.utils._python_dispatch
import torch.utils._pytree

watched = [torch, torch.Tensor, torch.nn.Module, torch.nn.functional, torch.nn.MultiheadAttention, numpy, builtins, sys]
before = [dict(vars(thing)) for thing in watched]
state = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed(), torch.get_num_threads())
opened = []
sys.addaudithook(lambda event, args: opened.append([event, str(args[0]), str(args[1]) if event == "open" else ""])
    if event in ("open", "subprocess.Popen", "os.system", "socket.connect", "os.mkdir", "os.remove") else None)
from ROOM import *
changed = [
    f"{thing.__name__}.{name}"
    for thing, old in zip(watched, before)
    for name, value in vars(thing).items()
    if old.get(name) is not value and not name.startswith("_") and type(value).__name__ != "module"
    and not (thing is sys and name in ("path_importer_cache", "modules"))
]
if state != (torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed(), torch.get_num_threads()):
    changed.append("torch's state")
print(json.dumps({"changed": changed, "opened": opened, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, dict]:
    """What importing each room does, in a process of its own."""
    done = {}
    for room in ROOMS:
        script = IMPORT.replace("ROOM", room)
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
        done[room] = json.loads(run.stdout)
    return done


@pytest.mark.parametrize("room", ROOMS)
def test_importing_patches_nothing(room: str, imported: dict[str, dict]) -> None:
    """torch, its classes and its state are what they were; only instances are ever patched."""
    assert [] == imported[room]["changed"]


@pytest.mark.parametrize("room", ROOMS)
def test_importing_reads_no_file(room: str, imported: dict[str, dict]) -> None:
    """Importing loads no weights or tables of ours, writes nothing, starts nothing and uses no network."""
    code = (".py", ".pyc", ".so", ".pth")
    events = [
        (event, what)
        for event, what, mode in imported[room]["opened"]
        if event != "open" or (Path(what).is_relative_to(ROOT) and ".venv" not in what and not what.endswith(code))
    ]
    assert [] == [(event, what) for event, what in events if not Path(what).is_dir()]


def test_core_is_light(imported: dict[str, dict]) -> None:
    """All of its public names load no room, no optional package, no metric and no command line."""
    heavy = {
        *TEST_TOOLS,
        "matplotlib",
        "torchmetrics",
        "typer",
        "rich",
        "transformers",
        "flash_attn",
        "scalekv_policies",
    }

    assert set() == {*heavy, "scalekv_adapters"} & set(imported["scalekv_core"]["modules"])


def test_public_names_are_imported_when_they_are_used() -> None:
    """``import scalekv_core`` alone imports no torch; what type checkers see is what ``__getattr__`` gives."""
    tree = tree_of(ROOMS["scalekv_core"] / "__init__.py")
    seen = {
        alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    given = {name: f"scalekv_core.{module}" for name, module in scalekv_core._MODULE_OF.items()}
    script = "import scalekv_core, sys; print('torch' in sys.modules)"
    alone = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)

    assert "False" == alone.stdout.strip()
    assert given == {name: module for name, module in seen.items() if name in scalekv_core.__all__}
    assert sorted(given) == sorted(scalekv_core.__all__)
    assert all(getattr(scalekv_core, name).__module__ == module for name, module in given.items() if name != "hookimpl")
    with pytest.raises(AttributeError, match="has no attribute 'compres'"):
        _ = scalekv_core.compres


# -- the hot path -------------------------------------------------------------------------------------------------


def hot_functions() -> Iterator[tuple[Path, ast.FunctionDef]]:
    """All modules that are hot, and whatever in an adapter or model hands tensors to the cache."""
    for path in (ROOMS["scalekv_core"] / name for name in HOT_MODULES):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef):
                yield path, node
    for path in sorted(ROOMS["scalekv_adapters"].rglob("*.py")):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef) and "attend" in attributes(node):
                yield path, node


def attributes(node: ast.AST) -> set[str]:
    return {
        call.func.attr for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
    }


HOT = list(hot_functions())
CHECKED_ONCE = {"_check_indices", "_check_targets"}
"""What may wait for the device: the first answer of a selector or merger, and the others only with check=True."""


ON_THE_CPU = {"top_tokens": {"numpy"}, "largest": {"numpy"}, "_sorted_bins": {"numpy"}}
"""What is only done where the tensor is on the CPU already."""


@pytest.mark.parametrize(("path", "function"), HOT, ids=[f"{path.stem}-{node.name}" for path, node in HOT])
def test_the_hot_path_waits_for_nobody(path: Path, function: ast.FunctionDef) -> None:
    """No tensor is brought to the host, nothing warns."""
    assert set() == attributes(function) & WAITS - ON_THE_CPU.get(function.name, set())
    assert "warnings" not in set(imports(function))


@pytest.mark.parametrize("name", HOT_MODULES)
def test_numbers_of_tensors_are_read_in_checks_only(name: str) -> None:
    """int, float and bool of a tensor wait for the device as item does."""
    tree = tree_of(ROOMS["scalekv_core"] / name)
    reading = {
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("int", "float", "bool")
    }
    assert set() == reading - CHECKED_ONCE
    assert "warnings" not in set(imports(tree))


def test_the_adapters_hot_path_was_found() -> None:
    """The guard above looks at something."""
    assert {"tokens", "kv_cache", "prefetch", "transformer"} <= {path.stem for path, _ in HOT}


def test_no_test_is_left_out() -> None:
    """What pytest is told to ignore holds no tests."""
    from tests import conftest

    here = Path(__file__).parent
    assert [] == [name for name in conftest.collect_ignore if (here / name).is_dir() or name.startswith("test_")]
