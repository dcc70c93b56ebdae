"""The file of messages has one from every place that writes one, as it is worded now; a person can read it in one go."""

from __future__ import annotations

from tests.messages import PAGE, read_page
from tests.raise_sites import Site, sites

TO_DO = "no test provokes it yet"
NOT_PROVOKED = {
    ("adapters/scalekv_adapters/infinity/inputs.py", "check_negative"): TO_DO,
    ("adapters/scalekv_adapters/infinity/templates.py", "ratio"): "the caller catches it and writes the message",
    ("adapters/scalekv_adapters/inputs.py", "check_same_device"): TO_DO,
    ("scalekv_core/app/form.py", "read"): TO_DO,
    ("scalekv_core/app/server.py", "free_port"): TO_DO,
    ("scalekv_core/bench/settings.py", "_heads_differ"): TO_DO,
    ("scalekv_core/cli/asking.py", "_prompts_of"): TO_DO,
    ("scalekv_core/cli/check.py", "check"): TO_DO,
    ("scalekv_core/cli/check.py", "_imported"): TO_DO,
    ("scalekv_core/cli/jobs.py", "job_of"): TO_DO,
    ("scalekv_core/cli/studies.py", "_weights"): TO_DO,
    ("scalekv_core/cli/writing.py", "check_directory"): "a test of permissions needs a user who is not root",
    ("scalekv_core/cli/writing.py", "_make"): "a test of permissions needs a user who is not root",
    ("scalekv_core/compare/database.py", "check_version"): TO_DO,
    ("scalekv_core/compare/explain.py", "_masks"): TO_DO,
    ("scalekv_core/compare/export.py", "export"): TO_DO,
    (
        "scalekv_core/compare/further_metrics.py",
        "_weights_at_hand",
    ): "only the thorough tests have the packages of these metrics",
    ("scalekv_core/compare/measuring.py", "pair_metrics"): TO_DO,
    ("scalekv_core/compare/measuring.py", "_check_shape"): TO_DO,
    ("scalekv_core/compare/ray_engine.py", "check"): "only the thorough tests start a cluster of Ray",
    ("scalekv_core/compare/ray_engine.py", "__init__"): "only the thorough tests start a cluster of Ray",
    ("scalekv_core/compare/ray_engine.py", "_collect"): "only the thorough tests start a cluster of Ray",
    ("scalekv_core/compare/ray_engine.py", "_connect"): "only the thorough tests start a cluster of Ray",
    ("scalekv_core/compare/results.py", "recommend"): TO_DO,
    ("scalekv_core/compare/store.py", "create"): "a test of permissions needs a user who is not root",
    ("scalekv_core/compare/store.py", "_record"): TO_DO,
    ("scalekv_core/compare/study.py", "plan_study"): TO_DO,
    ("scalekv_core/contracts/plan.py", "__attrs_post_init__"): TO_DO,
    ("scalekv_core/models/weights/pickles.py", "take"): "Python's own loader stops earlier",
    ("scalekv_core/models/weights/source.py", "tensor"): TO_DO,
    ("scalekv_core/models/weights/source.py", "normal"): TO_DO,
    (
        "scalekv_core/pipeline/out_of_memory.py",
        "explaining_out_of_memory",
    ): "its text is that of its parts, each of which is here",
    ("scalekv_core/pipeline/progress.py", "tell"): "it stops a thread, and its text is not shown",
    ("scalekv_core/planning/spending.py", "_plan"): TO_DO,
    ("scalekv_core/session/image_cache.py", "_start"): TO_DO,
    ("scalekv_core/shapes/schedule.py", "_as_reads"): TO_DO,
    ("scalekv_core/shapes/schedule.py", "__attrs_post_init__"): TO_DO,
}
"""{(module, function): why no quick test provokes its message}."""


def test_every_error_has_its_message_in_the_file() -> None:
    """Or a reason why not. ``python -m tests.messages tests/...`` adds what those tests provoke; then read the difference."""
    found = read_page()
    missing = {
        (site.module, site.function): site.template
        for site in sites()
        if not site.is_of_a_check and not any(map(site.wrote, found[site.function]))
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
