"""The file of messages has one from every place that writes one, as it is worded now; a person can read it in one go."""

from __future__ import annotations

from tests.messages import PAGE, read_page
from tests.raise_sites import Site, sites

NOT_PROVOKED = {
    ("adapters/scalekv_adapters/infinity/templates.py", "ratio"): "the caller catches it and writes the message",
    ("scalekv_core/cli/writing.py", "check_directory"): "a test of permissions needs a user who is not root",
    ("scalekv_core/cli/writing.py", "_make"): "a test of permissions needs a user who is not root",
    (
        "scalekv_core/compare/further_metrics.py",
        "_weights_at_hand",
    ): "only the thorough tests have the packages of these metrics",
    ("scalekv_core/compare/ray_engine.py", "__init__"): "only the thorough tests start a cluster of Ray",
    ("scalekv_core/compare/ray_engine.py", "_collect"): "only the thorough tests start a cluster of Ray",
    ("scalekv_core/compare/ray_engine.py", "_connect"): "only the thorough tests start a cluster of Ray",
    ("scalekv_core/compare/store.py", "make_folder"): "a test of permissions needs a user who is not root",
    ("scalekv_core/models/weights/pickles.py", "take"): "Python's own loader stops earlier",
    ("scalekv_core/pipeline/progress.py", "tell"): "it stops a thread, and its text is not shown",
    ("scalekv_core/testing/__init__.py", "__getattr__"): "its test runs in another process, without hypothesis",
}
"""{(module, function): why no quick test provokes its message}."""


def test_every_error_has_its_message_in_the_file() -> None:
    """Or a reason why not. ``python -m tests.messages tests/...`` adds what those tests provoke; then read the difference."""
    found = read_page()
    missing = {
        (site.module, site.function): site.template
        for site in sites()
        if not site.is_of_a_check and not any(map(site.wrote, found.get((site.module, site.function), ())))
    }

    assert {} == {place: text for place, text in missing.items() if place not in NOT_PROVOKED}


def test_every_line_of_the_file_is_a_message() -> None:
    """One line each, without a path of the machine that wrote it."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("  ")]

    assert [] == [line for line in lines if "/tmp/" in line or "/root" in line or "pytest-of" in line]


def test_places_are_found_by_their_text() -> None:
    """What is filled in may be anything; the rest is literal."""
    site = Site("m.py", "f", "InputError", 1, 2, r"budget\ .*\ holds\ nothing;\ give\ more\ than\ 0")

    assert site.wrote("budget '0%' holds nothing; give more than 0")
    assert not site.wrote("budget '0%' holds something")
    assert "budget ... holds nothing; give more than 0" == site.template
