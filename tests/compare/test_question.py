"""A question names what is compared; whatever cannot be meant is refused before anything is generated."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekv_core.compare.differences import differences
from scalekv_core.compare.prompts import named_sets, prompts_named, read_prompts
from scalekv_core.compare.question import Question, Setting, read_policy
from scalekv_core.compare.question_file import QuestionFile
from scalekv_core.errors import InputError, UnknownName
from scalekv_core.models.sampling import Sampling
from scalekv_core.plugins.registry import Registry
from tests.compare.conftest import asked


def labels(question: Question, registry: Registry) -> list[str]:
    return [setting.label for setting in question.settings(registry)]


def test_settings_are_every_combination(registry: Registry) -> None:
    """A policy that spends no budget is measured once, the others at every budget and with every codec."""
    question = asked(codecs=("dense", "int8"))

    assert [
        "full dense", "full int8",
        "uniform 50% dense", "uniform 50% int8", "uniform 20% dense", "uniform 20% int8",
    ] == labels(question, registry)  # fmt: skip


def test_options_are_varied_where_a_policy_has_them(registry: Registry) -> None:
    """``window`` is an option of snapkv and not of uniform."""
    question = asked(policies=("uniform", "snapkv"), budgets=("50%",), vary={"window": ("4", "16")})

    assert ["uniform 50%", "snapkv 50% window=4", "snapkv 50% window=16"] == labels(question, registry)


def test_an_option_that_nobody_has_is_refused(registry: Registry) -> None:
    """A misspelt option would leave its column empty."""
    with pytest.raises(InputError, match="no policy of this study has an option 'windw'"):
        asked(vary={"windw": ("4",)}).settings(registry)


def test_a_policy_can_have_other_parts(registry: Registry) -> None:
    """Parts replace the policy's own, by name."""
    made = Setting(model="toy", policy="uniform selector=h2o merger=fold", budget="50%").made(registry)

    assert "uniform selector=h2o merger=fold" == made.name


@pytest.mark.parametrize("text", ["", "scalekv codec", "scalekv codec=int8 codec=int4", "scalekv colour=red"])
def test_what_is_no_policy_is_refused(text: str) -> None:
    """The message shows the form."""
    with pytest.raises(InputError, match="write a name, or a name with parts"):
        read_policy(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ()}, "at least one model"),
        ({"policies": ("full", "full")}, "policy 'full' is named twice"),
        ({"prompts": {"toy": ()}}, "model 'toy' has no prompt"),
        ({"prompts": {"toy": ("1", "1")}}, "prompt for model 'toy' '1' is named twice"),
        ({"seeds": (0, 0)}, "seed 0 is named twice"),
        ({"metrics": ()}, "at least one metric"),
        ({"batch": 0}, "at least 1; got 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: dict[str, object], message: str) -> None:
    """Each in one line."""
    with pytest.raises(InputError, match=message):
        asked(**change)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.9])
def test_seeds_are_checked_before_anything_runs(seed: float) -> None:
    """As `generate` does; no folder is made for a study that cannot be measured."""
    with pytest.raises(InputError, match=r"^a study needs seeds that are whole numbers from 0 to 2\*\*64 - 1; got "):
        asked(seeds=(seed,))


def test_the_same_question_has_the_same_fingerprint() -> None:
    """On every machine, and another one another."""
    assert asked().fingerprint == asked().fingerprint
    assert asked().fingerprint != asked(seeds=(0, 1)).fingerprint


def test_differences_are_named() -> None:
    """By key, with both values."""
    assert ["seeds: [0] here, [0, 1] there"] == differences(asked().as_dict(), asked(seeds=(0, 1)).as_dict())


def test_long_lists_differ_in_one_short_line() -> None:
    """How many each has, and the first that differs, whether it differs in the middle or one list goes on."""
    many = tuple(f"a prompt of some length, number {n}" for n in range(1000))
    other = (*many[:700], "a" * 5000, *many[701:])
    mine, theirs, fewer = (asked(prompts={"toy": prompts}).as_dict() for prompts in (many, other, many[:10]))

    (line,) = differences(mine, theirs)
    assert line.startswith("prompts (toy): 1000 here, 1000 there; the first that differs is number 701: 'a prompt of")
    assert len(line) < 400
    (line,) = differences(fewer, mine)
    assert line.endswith(
        "10 here, 1000 there; the first that differs is number 11: none here, 'a prompt of some length, number 10' there"
    )


class Noted(str):
    """A text that counts how often texts are compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Noted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_many_prompts_are_not_compared_each_with_each() -> None:
    """A file may have a hundred thousand."""
    many = [Noted(n) for n in range(2000)]
    with pytest.raises(InputError, match="'7' is named twice"):
        asked(prompts={"toy": (*many, Noted(7))})
    assert Noted.compared < 10_000


def test_sampling_is_replaced_by_field() -> None:
    """A field that a sampling does not have is refused."""
    assert 3.0 == asked(sampling={"guidance": 3.0}).sampling_of(Sampling()).guidance
    with pytest.raises(InputError, match="sampling has no 'guidence'"):
        asked(sampling={"guidence": 3.0}).sampling_of(Sampling())


def test_images_are_cut_into_batches() -> None:
    """All prompts with the first seed come first."""
    question = asked(prompts={"toy": ("0", "1", "2")}, seeds=(5, 6), batch=4)

    assert [[("0", 5), ("1", 5), ("2", 5), ("0", 6)], [("1", 6), ("2", 6)]] == question.batches("toy")


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a cat\n\na dog\na cat\n"),
        ("p.csv", "id,prompt\n1,a cat\n2,a dog\n"),
        ("p.jsonl", '"a cat"\n{"prompt": "a dog", "id": 2}\n'),
    ],
)
def test_prompts_are_read_from_files(tmp_path: Path, name: str, text: str) -> None:
    """Text, CSV and JSON lines; a prompt that stands twice is taken once."""
    (tmp_path / name).write_text(text)

    assert ("a cat", "a dog") == read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", "has no prompts"),
        ("p.txt", b"\xff\xfe\x00", "is not text in UTF-8"),
        ("p.csv", b"text\na cat\n", "needs a column 'prompt'; it has 'text'"),
        ("p.jsonl", b"{\n", "line 1 is not JSON"),
        ("p.jsonl", b"[1]\n", "line 1 must be a text"),
        ("p.pdf", b"%PDF", "must end in .txt, .csv, .jsonl"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """The message names the file, and the line where there is one."""
    (tmp_path / name).write_bytes(content)

    with pytest.raises(InputError, match=message):
        read_prompts(tmp_path / name)


def test_a_missing_file_and_an_unknown_set_are_named(tmp_path: Path) -> None:
    """The sets that ship are listed."""
    with pytest.raises(InputError, match="cannot be read: No such file"):
        prompts_named(str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match=r"neither a set .captions, digits, written. nor a file"):
        prompts_named("digitz")


def test_the_sets_that_ship_have_prompts() -> None:
    """Ten digits, 54 captions, 64 prompts."""
    assert {"captions": 54, "digits": 10, "written": 64} == {name: len(prompts_named(name)) for name in named_sets()}


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_says_what_the_options_say(tmp_path: Path) -> None:
    """One value may stand for a list of one."""
    file = tmp_path / "study.toml"
    file.write_text(
        'models = "toy"\nbudgets = ["10%", "5%"]\nseeds = [0, 1]\n[vary]\nwindow = [4, 16]\n[prompts]\ntoy = "digits"\n'
    )
    read = QuestionFile.load(file)

    assert (("toy",), ("10%", "5%"), (0, 1)) == (read.models, read.budgets, read.seeds)
    assert ({"window": ("4", "16")}, {"toy": "digits"}) == (read.vary, read.prompts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = ", "study.toml: Invalid value"),
        ("modles = 1", "no key is called 'modles'; did you mean 'models'"),
        ("vary = 3", r"\[vary\] must be a table"),
        ("policies = [[1]]", "wanted a text or a list of texts"),
        *((f'{key} = ""', f"{key} is empty, which names nothing") for key in ("dtype", "aspect", "size", "models")),
        ("metrics = []", "metrics is empty, which names nothing"),
        ("seeds = []", "seeds is empty, which names nothing"),
        ('budgets = ["10%", " "]', "budgets is empty, which names nothing"),
        ('[prompts]\ntoy = ""', "prompts is empty, which names nothing"),
        ("[vary]\nwindow = []", "vary is empty, which names nothing"),
        ("dtype = 0", "dtype is a text; got 0"),
        ("[prompts]\ntoy = 3", r"\[prompts\] names a set or a file for each model; got 3"),
        ('device = ""', "no key is called 'device'"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With the file's name."""
    (tmp_path / "study.toml").write_text(text)

    with pytest.raises(InputError, match=message):
        QuestionFile.load(tmp_path / "study.toml")


def test_an_unknown_policy_is_refused(registry: Registry) -> None:
    """As everywhere, with the installed ones."""
    with pytest.raises(UnknownName, match="no policy is called 'unifrm'"):
        asked(policies=("unifrm",)).settings(registry)
