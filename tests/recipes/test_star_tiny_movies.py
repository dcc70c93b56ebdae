"""Captions, training clips and the judge of star-tiny: the judge reads what the clips show, and nothing else."""

from __future__ import annotations

import pytest
import torch

from recipes.star_tiny.movies import Moving, film, movies, wandering
from scalekv_adapters.infinitystar.tiny.captions import (
    COLOURS,
    DIRECTIONS,
    SHAPES,
    WORDS,
    Caption,
    every_caption,
    parse,
)
from scalekv_adapters.infinitystar.tiny.judge import judge, see, shows
from scalekv_adapters.shapes import GROUND
from scalekv_core.errors import InputError

FRAMES, SIDE = 33, 96


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clip(velocity: tuple[float, float], *, shape: str = "circle", frames: int = FRAMES) -> torch.Tensor:
    """A red shape from the middle of a side or corner."""
    start = tuple(48.0 - 16 * v for v in velocity)
    return film([Moving("red", shape, 12.0, (start[0], start[1]), velocity)], frames, SIDE)[0]


def test_a_caption_is_read_as_it_is_written() -> None:
    """All 48 captions are made of known words and mean the same when they are read again."""
    captions = every_caption()
    assert captions == [parse(str(caption)) for caption in captions]
    assert {word for caption in captions for word in str(caption).split()} == set(WORDS)
    assert len(COLOURS) * len(SHAPES) * len(DIRECTIONS) == len(set(captions))


def test_the_judge_reads_what_was_drawn() -> None:
    """The judge accepts the clip of every caption, and of no other one."""
    captions = every_caption()
    seen = [see(one) for one in movies(captions, FRAMES, SIDE, source())]
    for caption, one in zip(captions, seen, strict=True):
        assert [caption] == [other for other in captions if one.shows(other)]


def test_the_same_seed_draws_the_same() -> None:
    """Clips follow from the seed; another one gives others."""
    captions = [Caption("red", "circle", "up")]
    first, again, other = (movies(captions, FRAMES, SIDE, source(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(wandering(2, 5, 64, source()), wandering(2, 5, 64, source()))


def test_a_shape_stays_within_the_picture() -> None:
    """The edge of every frame of a caption's clip is ground."""
    captions = every_caption()
    clips = movies(captions, FRAMES, SIDE, source(3))
    edge = torch.cat([clips[..., 0], clips[..., -1], clips[..., 0, :], clips[..., -1, :]], dim=-1)
    assert torch.equal(edge, torch.tensor(GROUND).view(1, 3, 1, 1).expand_as(edge))


@pytest.mark.parametrize(
    ("velocity", "direction"),
    [
        ((1.4, 0), "right"),
        ((-1.4, 0), "left"),
        ((0, 1.4), "down"),
        ((0, -1.4), "up"),
        ((1.0, 1.0), None),
        ((0.1, 0), None),
    ],
)
def test_a_direction_is_one_of_four_or_none(velocity: tuple[float, float], direction: str | None) -> None:
    """A shape that moves aslant, or hardly, moves in none of the directions."""
    assert direction == see(clip(velocity)).direction


def test_a_shape_that_goes_back_or_jumps_does_not_move_evenly() -> None:
    """Frames in another order show the same things, and no direction."""
    moving = clip((1.4, 0))
    back = moving[:, [*range(20), *range(10, 23)]]
    jump = moving[:, [*range(10), *range(20, 33)]]
    assert [None, None, "right"] == [see(one).direction for one in (back, jump, moving)]


def test_every_frame_must_be_right() -> None:
    """One frame of another colour or shape, with two things, or with none, and the clip shows its caption no more."""
    caption, right = Caption("red", "circle", "right"), clip((1.4, 0))
    others = [
        clip((1.4, 0), shape="square"),
        right.flip(0),
        torch.maximum(right, right.roll(40, dims=2)),
        torch.zeros_like(right),
    ]
    assert [True] == judge([caption], right[None])
    for other in others:
        changed = right.clone()
        changed[:, 5] = other[:, 5]
        assert [False] == judge([caption], changed[None])


def test_the_judge_reads_prompts() -> None:
    """A prompt in capitals is judged as the caption that it is; one of another direction is wrong."""
    both = torch.stack([clip((1.4, 0))] * 2)
    assert [True, False] == shows(both, ["A red circle moves right", "a red circle moves left"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a pink circle moves right", "unknown word 'pink'; the words are a, red, green"),
        ("a red circle", "has an unknown form; write for example 'a red circle moves right'"),
        ("a circle red moves right", "has an unknown form"),
        ("", "has an unknown form"),
    ],
)
def test_what_is_no_caption_is_named(text: str, why: str) -> None:
    """The message names an unknown word beside the known ones; other text that is no caption gets an example."""
    with pytest.raises(InputError, match=why):
        parse(text)
