"""``scalekv app``: a page in the browser that generates an image twice and shows what a policy does."""

from __future__ import annotations

from typing import Annotated

from scalekv_core.cli import arguments as args
from scalekv_core.cli import console, defaults

LISTEN = "Where to listen"

Host = Annotated[
    str, args.option(LISTEN, "--host", metavar="ADDRESS", help="Address to listen on; 0.0.0.0 lets other machines in.")
]
Port = Annotated[int, args.option(LISTEN, "--port", min=0, max=65535, metavar="N", help="Port; 0 takes a free one.")]
Open = Annotated[
    bool,
    args.option(
        LISTEN, "--open/--no-open", help="Whether to open a browser. [dim]default: --no-open[/dim]", show_default=False
    ),
]


def app(
    *,
    model: args.Model = defaults.MODEL,
    policy: args.PolicyName = None,
    place: args.Place,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    open: Open = False,
) -> None:
    """Serve a page in the browser: choose model, policy and budget, and see the images side by side.

    Listens on this machine only, and asks no other host for anything. Ctrl-C ends it.
    """
    from scalekv_core.app import server
    from scalekv_core.app.engine import Settings
    from scalekv_core.cli import installed
    from scalekv_core.memory.batch import Batch
    from scalekv_core.pipeline import loading

    server.check_gradio()
    registry = installed.the_registry()
    policy = policy or defaults.POLICY
    registry.policy(policy)
    dtype = loading.read_dtype(place.dtype)
    batch = Batch(model=model, card=installed.model_card(model), dtype=dtype)
    loading.check_weights(batch, place.weights)
    settings = Settings(
        model=model,
        policy=policy,
        weights=place.weights,
        device=loading.read_device(place.device),
        dtype=dtype,
        allow_nonfinite=place.allow_nonfinite,
    )
    with server.listening(registry, settings, host=host, port=port) as address:
        console.say(f"{address} (Ctrl-C ends it)")
        if open:
            open_browser(address)
        wait()
    console.say("stopped")


def open_browser(address: str) -> None:
    """Opens the page; one line where there is no browser."""
    import webbrowser

    if not webbrowser.open(address):
        console.complain(f"there is no browser here to open; open {address} yourself")


def wait() -> None:
    """Until Ctrl-C."""
    import threading

    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
