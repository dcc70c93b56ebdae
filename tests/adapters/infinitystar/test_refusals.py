"""What InfinityStar refuses, in one line each."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.generation import InfinityStar
from scalekv_adapters.infinitystar.guidance import Choosing, Guidance
from scalekv_adapters.infinitystar.story import Story
from scalekv_adapters.infinitystar.text import Text
from scalekv_core.errors import InputError
from tests.adapters.infinitystar.golden import SIZES, case_of, golden_star


def generate(*, case="image", text=None, choosing=None, story=None, forced=()):
    """A case with something else in place."""
    one = case_of(case)
    return golden_star().generate(
        text or one.text, one.pyramids, choosing or one.choosing, seeds=None, story=story, forced=forced
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (Text(torch.zeros(1, 3, 47)), r"reads text \(prompts, tokens, 48\); got \(1, 3, 47\)"),
        (Text(torch.zeros(1, 513, 48)), "prompts of 1 to 512 text tokens; got 513: shorten the prompt"),
        (Text(torch.zeros(1, 3, 48), torch.zeros(1, 4, 48)), "not longer than the prompt; got"),
    ],
)
def test_a_text_that_does_not_fit(text, message) -> None:
    """Other channels, more tokens than the window, a negative prompt that is longer."""
    with pytest.raises(InputError, match=message):
        generate(text=text)


def test_other_numbers_than_passes() -> None:
    """Strengths and temperatures, one for each pass, above 0; bits of at most so many passes."""
    case = case_of("image")
    with pytest.raises(InputError, match="a temperature for each of 5 passes; got 4 and 5"):
        generate(choosing=evolve(case.choosing, guidance=Guidance((3.0,) * 4)))
    with pytest.raises(InputError, match=r"temperatures above 0; got 0\.0"):
        Choosing(guidance=Guidance((3.0,)), temperatures=(0.0,))
    with pytest.raises(InputError, match="forced bits of at most 5 passes, got 6"):
        generate(forced=[torch.zeros(1)] * 6)
    with pytest.raises(InputError, match="forced bits of scale 0 to be bool"):
        generate(forced=[torch.zeros(1)])


def test_a_story_belongs_to_interactive_clips() -> None:
    """And has the frames and sides of its pyramids."""
    story = case_of("interactive").story
    with pytest.raises(InputError, match="a story for interactive clips, and for no others"):
        generate(story=story)
    with pytest.raises(InputError, match="an interactive clip needs former latents"):
        generate(case="interactive", story=Story(story.former[:, :, 1:], story.first))


def test_without_a_tokenizer_there_are_no_clips() -> None:
    """The message says how to give one."""
    with pytest.raises(InputError, match="no tokenizer, so it generates no clips"):
        _ = InfinityStar(InfinityStarConfig(**SIZES)).tokenizer
