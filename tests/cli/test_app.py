"""``scalekv app`` before it listens: what cannot be done is one line."""

from __future__ import annotations

import importlib.util
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scalekv_core import InputError, ScaleKVError
from scalekv_core.app.engine import Engine, Settings
from scalekv_core.app.form import Form
from scalekv_core.app.server import free_port
from scalekv_core.cli import app
from scalekv_core.plugins import registry as registries


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.usefixtures("gradio")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model", "toi"], "no model is called 'toi'"),
        (["--policy", "windowd"], "no policy is called 'windowd'"),
        (["--model", "toy-weights"], "model 'toy-weights' does not ship with weights"),
        (["--device", "tpu9"], "device 'tpu9' cannot be used"),
        (["--host", "no.such.host.invalid"], "this machine has no address 'no.such.host.invalid'"),
    ],
)
def test_what_cannot_be_served_is_one_line(run: Callable[..., Any], arguments: list[str], line: str) -> None:
    """Before anything is loaded."""
    given = {"--model": "toy", "--policy": "windowed", **dict(zip(arguments[::2], arguments[1::2], strict=True))}
    ran = run("app", *(word for option in given.items() for word in option))

    assert 2 == ran.code
    assert line in ran.complaint


@pytest.fixture
def gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "gradio" else real(name))


@pytest.mark.usefixtures("gradio")
def test_a_port_in_use(run: Callable[..., Any], taken: int) -> None:
    """The port, and what to do."""
    ran = run("app", "--model", "toy", "--policy", "windowed", "--port", taken)

    assert 2 == ran.code
    assert f"scalekv: port {taken} on 127.0.0.1 is in use; give another with --port" == ran.complaint


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied"), "no permission to listen on port 80; give --port with a number above 1023"),
        (OSError(99, "Cannot assign requested address"), "cannot listen on ::, port 80: Cannot assign requested address"),
    ],
    ids=["a port of the system", "another reason"],
)  # fmt: skip
def test_a_port_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, error: OSError, line: str) -> None:
    """What the operating system answers, in one line."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(InputError, match=re.escape(line)):
        free_port("::", 80)


def test_without_gradio_the_extra_is_named(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ran = run("app")

    assert 2 == ran.code
    assert "scalekv: scalekv app needs gradio, which is not installed; run: pip install 'scalekv[app]'" == ran.complaint


def test_port_0_is_a_free_one() -> None:
    """It can be listened on."""
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", free_port("127.0.0.1", 0)))


def test_without_a_browser_the_address_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page is served all the same."""
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    app.open_browser("http://127.0.0.1:1/")

    assert "scalekv: there is no browser here to open; open http://127.0.0.1:1/ yourself\n" == capsys.readouterr().err


@pytest.mark.parametrize(
    "fields",
    [
        {"budget": "lots"},
        {"budget": "1%"},
        {"policy": "windowd"},
        {"codec": "int3"},
        {"seed": "-1"},
        {"guidance": "strong"},
        {"aspect": "3:1"},
        {"prompt": "ten"},
    ],
)
def test_the_page_says_what_the_command_line_says(run: Callable[..., Any], fields: dict[str, str]) -> None:
    """The same line for the same mistake."""
    form = Form(**{"model": "toy", "policy": "windowed", "prompt": "3", **fields})
    options = [f"--{name}={getattr(form, name)}" for name in {"model", "policy", *fields} - {"prompt"}]
    ran = run("generate", *options, "--", form.prompt)

    assert 2 == ran.code
    assert f"scalekv: {refusal(form)}" == ran.complaint


def refusal(form: Form) -> str:
    """What the page says of a form, while it is read, planned or generated."""
    from scalekv_core.app.turns import Failed, Turns

    engine = Engine(registries.shared_registry(), Settings(model="toy", policy="windowed"))
    try:
        request = engine.read(form)
    except ScaleKVError as error:
        return str(error)
    turns = Turns(engine.work, describe=lambda error: None)
    last = list(turns.run(request, "visitor"))[-1]
    turns.close()
    assert isinstance(last, Failed)
    return last.message
