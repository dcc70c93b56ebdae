"""Captions, drawings and their judge: the same seed gives the same drawing, and the judge reads only the drawing."""

from __future__ import annotations

import itertools

import pytest
import torch
from attrs import evolve

from recipes.infinity_tiny.drawings import Placed, compose, drawings, render
from recipes.infinity_tiny.random_captions import random_caption
from scalekv_adapters.infinity.tiny.captions import (
    COLOURS,
    RELATIONS,
    SHAPES,
    TASKS,
    WORDS,
    Caption,
    Thing,
    parse,
)
from scalekv_adapters.infinity.tiny.judge import holds, judge
from scalekv_adapters.shapes import GROUND, find
from scalekv_core.errors import InputError, UnknownName

SIZES = ((64, 64), (80, 60), (60, 80), (88, 44), (36, 108))
"""Height and width; with a stride of 4 those of 1:1, 3:4, 4:3, 1:2 and 3:1."""


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(*things: Placed, size: tuple[int, int] = (64, 64)) -> torch.Tensor:
    return render([things], size)[0]


def two(colour: str = "blue", x: float = 46, y: float = 32) -> torch.Tensor:
    """A red circle, and a square somewhere."""
    return picture(Placed("red", "circle", 18, 32, 10), Placed(colour, "square", x, y, 10))


@pytest.mark.parametrize("task", TASKS)
def test_a_caption_is_read_as_it_is_written(task: str) -> None:
    """Every kind of caption is of its task, is made of known words, and means the same when it is read again."""
    some = [random_caption(task, source(seed)) for seed in range(50)]
    assert {task} == {caption.task for caption in some}
    assert some == [parse(str(caption)) for caption in some]
    assert {word for caption in some for word in str(caption).split()} <= set(WORDS)


@pytest.mark.parametrize(
    ("task", "size", "count"),
    [
        *((task, size, 8) for task, size in zip(itertools.cycle(TASKS), SIZES, strict=False)),
        *(pytest.param(*each, 20, marks=pytest.mark.thorough) for each in itertools.product(TASKS, SIZES)),
    ],
)
def test_the_judge_reads_what_was_drawn(task: str, size: tuple[int, int], count: int) -> None:
    """The judge accepts the generator's own drawings, for every task and every shape of picture."""
    captions, images = drawings(count, size, source(1), {task: 1.0})
    assert all(judge(captions, images))


@pytest.mark.thorough
def test_the_judge_is_right_on_nearly_all_drawings() -> None:
    """The judge accepts at least 99 % of 300 drawings, and at most 1 % of drawings of another caption."""
    captions, images = drawings(300, (64, 64), source(2))
    assert sum(judge(captions, images)) >= 297
    found = [find(image) for image in images]
    wrong = [
        (other, one) for other, one, own in zip(captions[1:], found, captions, strict=False) if _differ(other, own)
    ]
    assert sum(holds(other, one) for other, one in wrong) <= 0.01 * len(wrong)


def _differ(a: Caption, b: Caption) -> bool:
    """Whether two captions exclude each other: their numbers or shapes differ."""
    return sorted(t.shape for t in a.things) != sorted(t.shape for t in b.things)


def test_the_same_seed_draws_the_same() -> None:
    """Captions and pixels follow from the seed, and another seed gives others."""
    captions, images = drawings(6, (80, 60), source(3))
    again, same = drawings(6, (80, 60), source(3))
    other, different = drawings(6, (80, 60), source(4))
    assert (captions, True) == (again, torch.equal(images, same))
    assert captions != other
    assert not torch.equal(images, different)


@pytest.mark.parametrize("size", SIZES)
def test_things_keep_apart_and_inside(size: tuple[int, int]) -> None:
    """Every thing lies inside the picture, with background between any two."""
    for seed in range(100):
        task = TASKS[seed % len(TASKS)]
        things = compose(random_caption(task, source(seed)), size, source(seed))
        for i, a in enumerate(things):
            assert a.radius <= a.x <= size[1] - a.radius
            assert a.radius <= a.y <= size[0] - a.radius
            for b in things[:i]:
                assert max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius + 1


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_holds_in_one_direction(relation: str) -> None:
    """A drawing of a relation shows it, and not its opposite or another one."""
    things = (Thing("red", "circle"), Thing("blue", "square"))
    image = render([compose(Caption(things, relation), (64, 64), source())], (64, 64))[0]
    assert [relation] == [other for other in RELATIONS if holds(Caption(things, other), find(image))]
    assert holds(Caption(things, "and"), find(image))
    assert holds(Caption(things[::-1], "and"), find(image))


def test_every_thing_is_found_in_its_colour_and_shape() -> None:
    """The judge tells all colours and shapes apart, small and large, and finds each centre."""
    for colour in COLOURS:
        for shape in SHAPES:
            for radius in (7, 12, 20):
                (found,) = find(picture(Placed(colour, shape, 31, 33, radius)))
                assert (colour, shape) == (found.colour, found.shape)
                assert abs(found.x - 31) < 0.5
                assert abs(found.y - 33) < 0.5 + 0.4 * radius  # a triangle's centre of mass lies lower


def test_what_is_wrong_is_refused() -> None:
    """A caption does not hold with a wrong colour, shape, number or an extra thing."""
    caption = Caption((Thing("red", "circle"), Thing("blue", "square")), "left of")
    assert judge([caption], two()[None]) == [True]
    assert judge([caption], two(colour="green")[None]) == [False]
    assert judge([caption], two(x=18, y=56)[None]) == [False]
    assert judge([caption], picture(Placed("red", "circle", 18, 32, 10))[None]) == [False]
    extra = two()
    extra[:, :8, :8] = torch.tensor(COLOURS["green"])[:, None, None]
    assert judge([caption], extra[None]) == [False]
    assert judge([evolve(caption, things=caption.things[::-1])], two()[None]) == [False]


def test_a_thing_of_no_known_kind_is_found_as_such() -> None:
    """The judge sees an unknown colour and an unknown shape, and the caption does not hold."""
    strange = picture(Placed("red", "circle", 18, 32, 10))
    strange[:, 40:60, 40:60] = torch.tensor([0.9, 0.9, 0.9])[:, None, None]
    assert {("red", "circle"), (None, "square")} == {(one.colour, one.shape) for one in find(strange)}
    assert judge([parse("a red circle")], strange[None]) == [False]
    bar = picture(Placed("red", "circle", 18, 20, 10))
    bar[:, 50:54, 4:60] = torch.tensor(COLOURS["red"])[:, None, None]
    assert {"circle", None} == {one.shape for one in find(bar)}


def test_noise_and_specks_are_no_things() -> None:
    """Slight noise everywhere, and spots of a few pixels, change nothing for the judge."""
    noisy = two() + 0.04 * torch.randn(3, 64, 64, generator=source())
    noisy[:, 2:5, 2:5] = torch.tensor(COLOURS["yellow"])[:, None, None]
    assert judge([parse("a red circle left of a blue square")], noisy[None].clamp(0, 1)) == [True]


def test_nothing_is_found_on_empty_ground() -> None:
    """An empty picture holds no thing."""
    assert find(torch.tensor(GROUND)[:, None, None].expand(3, 64, 64)) == ()


def test_colours_left_open_are_one_colour() -> None:
    """Things of a caption without colours share the one that is used, so that a model need not agree with itself."""
    for seed in range(20):
        (_, *others) = things = compose(parse("three circles"), (64, 64), source(seed))
        assert {things[0].colour} == {thing.colour for thing in others}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a caption is empty"),
        ("a pink circle", r"unknown word 'pink'; the words are a, two, three, red, green"),
        ("circle", "has an unknown form; write for example 'a red circle'"),
        ("a circles", "has an unknown form"),
        ("two circle", "has an unknown form"),
        ("a red blue circle", "has an unknown form"),
        ("a circle left a square", "has an unknown form"),
        ("a circle above of a square", "has an unknown form"),
        ("two circles and a square", "has an unknown form"),
        ("a circle and", "has an unknown form"),
        ("a circle a square", "has an unknown form"),
    ],
)
def test_what_is_no_caption_is_named(text: str, why: str) -> None:
    """The message names an unknown word beside the known ones; other text that is no caption gets an example."""
    with pytest.raises(InputError, match=why):
        parse(text)


def test_a_long_caption_is_shortened_in_the_message() -> None:
    """The message about ten thousand letters is one readable line."""
    with pytest.raises(InputError, match=r"\(10000 characters\): unknown word") as refused:
        parse("a" * 10_000)

    assert 500 > len(str(refused.value))


def test_upper_case_and_spaces_do_not_matter() -> None:
    """Captions may have upper case and extra spaces."""
    assert parse("  A Red  circle ") == parse("a red circle")


def test_an_unknown_task_is_named() -> None:
    """The message lists the tasks."""
    with pytest.raises(UnknownName, match="no task is called 'counts'; did you mean 'counting'"):
        random_caption("counts", source())
