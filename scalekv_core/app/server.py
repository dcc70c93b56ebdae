"""Listening: on the loopback address unless told otherwise, without analytics, and without any other host."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalekv_core.app.calls import Place
from scalekv_core.app.engine import Engine, Settings
from scalekv_core.app.turns import LONGEST_LINE, Turns
from scalekv_core.app.views import Views
from scalekv_core.errors import InputError, first_line, missing_extra
from scalekv_core.pipeline.out_of_memory import is_out_of_memory
from scalekv_core.plugins.registry import Registry

HOST, PORT = "127.0.0.1", 7860
STYLE = Path(__file__).with_name("style.css")
PLANNERS = 8
"""Threads for plans beside those that wait for images."""


def check_gradio() -> None:
    """Raises MissingExtra if gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise missing_extra("gradio", "app", "scalekv app")


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        InputError: it is in use, or this machine does not have that address.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            return int(trial.getsockname()[1])
    except socket.gaierror:
        raise InputError(f"this machine has no address {host!r}; leave out --host, or give 0.0.0.0 for all") from None
    except PermissionError:
        raise InputError(f"no permission to listen on port {port}; give --port with a number above 1023") from None
    except OSError as error:
        if error.errno in (98, 48, 10048):
            raise InputError(f"port {port} on {host} is in use; give another with --port") from None
        raise InputError(f"cannot listen on {host}, port {port}: {error.strerror}") from None


@contextmanager
def listening(registry: Registry, settings: Settings, *, host: str = HOST, port: int = PORT) -> Iterator[str]:
    """The address of the page, which is served until the block ends; then whatever is generated is cancelled.

    Args:
        registry: what the page offers.
        settings: what it starts with.
        host, port: where it listens; port 0 is any free one.

    Raises:
        MissingExtra: gradio is not installed.
        InputError: the port cannot be listened on.
    """
    check_gradio()
    port = free_port(host, port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    from scalekv_core.app.page import build, theme

    engine = Engine(registry, settings)
    turns = Turns(engine.work, describe=_in_one_line)
    place = Place(
        device=str(settings.device),
        dtype=str(settings.dtype).removeprefix("torch."),
        weights=settings.weights is not None,
    )
    page = build(Views(engine, turns, place))
    page.queue(api_open=False, max_size=None)
    options: dict[str, Any] = {"share": False, "ssr_mode": False, "mcp_server": False, "enable_monitoring": False}
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            max_file_size=1,  # nothing is uploaded
            max_threads=LONGEST_LINE + PLANNERS,
            theme=theme(),
            css_paths=STYLE,
            **options,
        )
        yield address
    finally:
        turns.close()
        page.close(verbose=False)


def _in_one_line(error: Exception) -> str | None:
    if is_out_of_memory(error):
        reason = first_line(error, "the machine has none left")
        return f"out of memory: {reason}; give a smaller budget, or a smaller image"
    return None
