"""The versions that pyproject.toml allows are the versions that are tested."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
NOT_OURS = {"click", "pyparsing"}
"""Pinned for `make lowest` only: dependencies of dependencies."""
NOT_TESTED = {
    *("mkdocs", "mkdocs-jupyter", "mkdocs-material", "mkdocstrings", "mlxtend", "mypy", "ruff", "twine"),
    *("ipykernel", "nbclient", "nbformat"),
    *("flip-evaluator", "gradio", "pyarrow", "ray", "selenium", "torch-fidelity"),
}
"""For the documentation and its notebooks, the recipes, formats, types, releases, and large extras, whose lowest versions are tried by
hand when they change (CONTRIBUTING.md): `make lowest` skips their tests."""


def declared() -> dict[str, str]:
    """{dependency: its lowest version} of all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    found = (re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", one) for requirements in lists for one in requirements)
    return {match[1]: match[2] for match in found if match}


def pinned(name: str) -> dict[str, str]:
    """{dependency: version} of a constraints file."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split(";")[0].split("==") for line in lines if not line.startswith("#"))


def test_make_lowest_installs_what_is_declared() -> None:
    """Every dependency that a test imports, in its lowest version."""
    wanted = {name: version for name, version in declared().items() if name not in NOT_TESTED}
    assert wanted == {
        name: version for name, version in pinned("constraints-lowest.txt").items() if name not in NOT_OURS
    }


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt"])
def test_torch_is_pinned(name: str) -> None:
    """The Makefile reads its version there: without a pin pip would fetch gigabytes of another build."""
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", pinned(name)["torch"])


def test_the_version_stands_in_one_more_place() -> None:
    """CITATION.cff cites the version that pyproject.toml builds."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_extra_is_described() -> None:
    """docs/installing.md has a row for each extra, and no others."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "installing.md").read_text(), re.MULTILINE)

    assert sorted(extras) == sorted(rows)
