"""All messages on one page, tests/data/messages.txt, so that a person can read them in one go."""

from __future__ import annotations

from tests.messages import MESSAGES, PAGE, page


def test_the_page_has_every_message_as_it_is() -> None:
    """After a change of words: ``python -m tests.messages``, and read the difference."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_names_of_messages_are_unique() -> None:
    """So that a paragraph can be found."""
    assert len(MESSAGES) == len({who for who, _ in MESSAGES})
