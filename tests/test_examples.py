"""The example plugin, and the command that writes one like it: what stands in the documentation is ready to run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scalekv_core import Registry, compress, shared_registry
from scalekv_core.cli import main
from scalekv_core.testing import toy

from .pages import ROOT, forget_plugins, install

EXAMPLE = ROOT / "docs" / "examples" / "scalekv-randomk"
CREATED = ["README.md", "pyproject.toml", "scalekv_{}.py", "tests/test_scalekv_{}.py"]
Ran = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ran]:
    """Runs ``scalekv`` in an empty directory: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def scalekv(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return scalekv


@pytest.fixture
def installing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Installs a plugin's folder for the length of a test."""
    before = set(sys.modules)
    yield lambda folder: install(folder, tmp_path / "site", monkeypatch)
    forget_plugins(before, tmp_path, EXAMPLE)


def files(folder: Path) -> dict[str, str]:
    """{path: text} of a plugin's folder, without what tools leave there."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    hidden = ("__pycache__", ".hypothesis", ".pytest_cache", ".ruff_cache")
    kept = [path for path in paths if not set(hidden) & set(path.relative_to(folder).parts)]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in kept}


def test_the_example_is_what_new_plugin_writes(run, tmp_path: Path) -> None:
    """Template and example are one text, so that neither drifts."""
    code, out, err = run("new-plugin", "randomk")

    assert (0, "") == (code, err)
    assert files(EXAMPLE) == files(tmp_path / "scalekv-randomk")
    assert "next: cd scalekv-randomk && pip install -e '.[test]' && pytest" in out


@pytest.mark.parametrize("name", ["randomk", "my-own-2nd", "class", "torch", "token", "none", "a" * 50])
def test_whatever_the_name_the_plugin_works(name: str, run, installing, tmp_path: Path) -> None:
    """The example is found by its entry point and generates; names that mean something in Python do no harm."""
    assert 0 == run("new-plugin", name, "--into", "far/away")[0]
    folder = tmp_path / "far" / "away" / f"scalekv-{name}"
    assert {path.format(name.replace("-", "_")) for path in CREATED} == set(files(folder))

    installing(folder)
    model = toy.ToyCard().load()
    with compress(model, shared_registry().policy(name), "50%", registry=Registry.of(toy), check=True) as session:
        model.generate(["3"], seeds=[0])

    assert () == shared_registry().problems
    assert f"scalekv-{name}" == shared_registry().offer("selector", name).owner.distribution
    assert session.report().images[-1].dropped


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Mine", "small letters"),
        ("my_method", "small letters"),
        ("2nd", "begins with a letter"),
        ("a--b", "single hyphens"),
        ("mine-", "single hyphens"),
        ("../mine", "small letters"),
        ("", "NAME is an empty text, which names nothing"),
        ("a" * 51, "at most 50"),
        ("scalekv-mine", "give the policy's name alone: mine"),
        ("h2o", "policy 'h2o' is already offered by plugin 'scalekv-policies'"),
        ("policies", "package scalekv_policies is already installed"),
    ],
)
def test_names_that_cannot_be_are_refused(name: str, what: str, run, tmp_path: Path) -> None:
    """In one line, before anything is written."""
    code, _, err = run("new-plugin", name)

    assert 2 == code
    assert 1 == len(err.splitlines())
    assert what in err
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_what_is_there_is_not_touched(there: str, run, tmp_path: Path) -> None:
    """An existing folder, file or dangling link is refused, and left as it is."""
    target = tmp_path / "scalekv-mine"
    {
        "folder": target.mkdir,
        "file": lambda: target.write_text("mine"),
        "link": lambda: target.symlink_to("nowhere"),
    }[there]()
    code, _, err = run("new-plugin", "mine")

    assert 2 == code
    assert "is already there" in err
    assert [target] == list(tmp_path.iterdir())
    assert {} == (files(target) if there == "folder" else {})


def test_a_place_that_is_a_file_is_refused(run, tmp_path: Path) -> None:
    """As every directory that is given on the command line."""
    (tmp_path / "notes").write_text("")
    code, _, err = run("new-plugin", "mine", "--into", "notes")

    assert 2 == code
    assert "notes is a file" in err


def test_a_name_of_another_kind_is_free(run) -> None:
    """An allocator's name may be a policy's and a selector's, too: nothing clashes."""
    assert 0 == run("new-plugin", "even")[0]


@pytest.mark.thorough
def test_the_example_keeps_its_promises(installing, tmp_path: Path) -> None:
    """The selector's tests pass as its author runs them, in a process of their own; ``make example`` runs all of them."""
    installing(EXAMPLE)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "selector."]
    done = subprocess.run(command, cwd=EXAMPLE, env=env, capture_output=True, text=True)

    assert 0 == done.returncode, done.stdout
