"""``scalekv new-plugin``: a folder with a policy of one's own, its entry point and its tests, ready to install."""

from __future__ import annotations

import re
import shlex
import tempfile
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

import typer
from attrs import frozen

from scalekv_core.cli import console, writing
from scalekv_core.errors import InputError

PREFIX = "scalekv-"
LONGEST = 50
TEMPLATE = "plugin_template"
FILES = {
    "README.md": "README.md.in",
    "pyproject.toml": "pyproject.toml.in",
    "{module}.py": "module.py.in",
    "tests/test_{module}.py": "test.py.in",
}
"""{file of the plugin: file of the template}."""

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the policy: small letters, digits and single hyphens.")
]
Into = Annotated[Path, typer.Option("--into", metavar="DIR", help="Where the folder is made.")]


@frozen
class Words:
    """What a name is called in the places where it stands.

    >>> words = Words("my-method")
    >>> words.distribution, words.module, words.cls
    ('scalekv-my-method', 'scalekv_my_method', 'MyMethodSelector')
    """

    name: str

    @property
    def distribution(self) -> str:
        return PREFIX + self.name

    @property
    def module(self) -> str:
        return self.distribution.replace("-", "_")

    @property
    def cls(self) -> str:
        return "".join(part.capitalize() for part in self.name.split("-")) + "Selector"

    def fill(self, text: str) -> str:
        """A template's text with the name in its places."""
        return Template(text).substitute(
            name=self.name, distribution=self.distribution, module=self.module, cls=self.cls
        )


def new_plugin(name: Name, into: Into = Path()) -> None:
    """Write the folder scalekv-NAME: a policy of your own with its entry point and its tests, ready to install.

    It starts as a working policy that keeps pseudo-random tokens; replace one expression by your rule.
    """
    words = words_of(name)
    folder = into / words.distribution
    check_free(words, folder)
    write(words, folder)
    console.say(f"written to {folder}: {', '.join(sorted(files_of(words)))}")
    console.say(f"next: cd {shlex.quote(str(folder))} && pip install -e '.[test]' && pytest")


def words_of(name: str) -> Words:
    """The name, if it can be a policy's, a distribution's and, with underscores, a module's.

    Raises:
        InputError: it cannot.
    """
    if name.startswith(PREFIX):
        raise InputError(
            f"the folder's name gets its prefix by itself; give the policy's name alone: {name.removeprefix(PREFIX)}"
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST:
        raise InputError(
            f"a plugin's name is made of at most {LONGEST} small letters, digits and single hyphens, and begins with a "
            f"letter; got {name!r}"
        )
    return Words(name)


def check_free(words: Words, folder: Path) -> None:
    """Raises InputError if the name is taken, or something is where the folder would be; writes nothing."""
    from scalekv_core.cli.installed import the_registry

    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is already there; choose another name, or another place with --into")
    if find_spec(words.module) is not None:
        raise InputError(f"a package {words.module} is already installed here; choose another name")
    for kind in ("policy", "selector"):
        if offer := the_registry().offers.get((kind, words.name)):
            raise InputError(f"{kind} {words.name!r} is already offered by {offer.owner}; choose another name")
    writing.check_directory(folder.parent)


def files_of(words: Words) -> dict[str, str]:
    """{path in the folder: text} of the whole plugin."""
    template = resources.files(__package__) / TEMPLATE
    return {
        path.format(module=words.module): words.fill((template / source).read_text(encoding="utf-8"))
        for path, source in FILES.items()
    }


def write(words: Words, folder: Path) -> None:
    """Writes the whole folder, or nothing of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scalekv-", dir=folder.parent) as stage:
        made = Path(stage) / folder.name
        for path, text in files_of(words).items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text, encoding="utf-8")
        made.rename(folder)
