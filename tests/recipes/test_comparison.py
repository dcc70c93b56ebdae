"""The tables of the small models' judges: what a row says, and that no row is lost or drawn twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recipes.compare_command import fill, read, run
from recipes.comparison import Batch, Comparison, read_policy
from recipes.infinity_tiny.compare import captions
from recipes.var_tiny.compare import digits, judge_of
from scalekv_adapters.infinity.tiny.captions import TASKS
from scalekv_core import load_model
from scalekv_core.errors import InputError, ScaleKVError

TWO = [Batch(["a red circle"], [0]), Batch(["two triangles"], [1])]


def judge(images: torch.Tensor) -> dict[str, float]:
    return {"drawn": float(len(images))}


@pytest.fixture(scope="module")
def model():
    return load_model("infinity-tiny")


@pytest.fixture(scope="module")
def comparison(model) -> Comparison:
    return Comparison.of(model, TWO, judge)


def test_a_budget_of_everything_is_the_unmodified_model(comparison: Comparison) -> None:
    """The same pictures, bits and distributions, in fewer bytes: the last map is not stored."""
    row = comparison.row("uniform", "100%")
    assert (2, float("inf"), 1.0, 0.0) == (row.images, row.psnr, row.agreement, row.kl)
    assert row.judged == comparison.unmodified().judged == {"drawn": 2.0}
    assert row.resident_bytes < row.unmodified_bytes


def test_a_row_sums_up_its_batches(comparison: Comparison) -> None:
    """Shares and divergences are means of those of the batches; PSNR is that of the mean of their errors."""
    row = comparison.row("uniform codec=int4", "10%")
    assert len(row.batches) == len(TWO)
    assert row.kl == pytest.approx(sum(one.kl for one in row.batches) / 2)
    assert row.agreement == pytest.approx(sum(one.agreement for one in row.batches) / 2)
    errors = [10 ** (-db / 10) for db in (row.psnr, *(one.psnr for one in row.batches))]
    assert errors[0] == pytest.approx(sum(errors[1:]) / 2)
    assert row.agreement < 1
    assert row.kl > 0


def test_a_row_that_is_there_is_not_drawn_again(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drawn before an interruption is in the file, and only what is missing is drawn after it."""
    path, drawn, row = tmp_path / "new" / "rows.json", [], Comparison.row

    def counted(self: Comparison, policy: str, budget: str, *rest) -> object:
        drawn.append((policy, budget))
        if drawn == [("uniform", "20%"), ("fold codec=int8", "20%")]:
            raise KeyboardInterrupt
        return row(self, policy, budget, *rest)

    monkeypatch.setattr(Comparison, "row", counted)
    wanted = {"policies": ["uniform", "fold  codec=int8"], "budgets": ["20%"]}
    with pytest.raises(KeyboardInterrupt):
        fill(path, model, TWO[:1], judge, **wanted)
    before = read(path)
    fill(path, model, TWO[:1], judge, **wanted)
    fill(path, model, TWO[:1], judge, **wanted)

    assert [("uniform", "20%"), *2 * [("fold codec=int8", "20%")]] == drawn
    assert before.items() <= read(path).items()
    assert ["unmodified", "uniform", "fold codec=int8"] == [row["policy"] for row in read(path).values()]
    assert ["rows.json"] == [file.name for file in path.parent.iterdir()]


@pytest.mark.thorough
def test_other_pictures_are_other_rows(model, tmp_path: Path) -> None:
    """Rows of more pictures, or drawn with other options, stand beside those that are there."""
    path, one = tmp_path / "rows.json", {"policies": ["uniform"], "budgets": ["20%"]}
    fill(path, model, TWO[:1], judge, **one)
    fill(path, model, TWO[:1], judge, **one, options=["pick=random"])
    fill(path, model, TWO, judge, **one)
    assert [1, 1, 1, 2, 2] == [row["images"] for row in read(path).values()]
    assert {"pick": "random"} == [row["options"] for row in read(path).values()][2]


@pytest.mark.parametrize(
    ("policies", "budgets", "why"),
    [
        (["uniform", "unifrom"], ["20%"], "did you mean 'uniform'"),
        (["uniform codec=int9"], ["20%"], "no codec is called 'int9'"),
        (["uniform"], ["20%", "0%"], "0%"),
    ],
)
def test_what_cannot_be_drawn_is_refused_first(model, tmp_path: Path, policies, budgets, why: str) -> None:
    """A mistake in the last of many rows costs no time and leaves no file."""
    with pytest.raises(ScaleKVError, match=why):
        fill(tmp_path / "rows.json", model, TWO, judge, policies=policies, budgets=budgets)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": {"policy": "uniform"}}'])
def test_another_file_is_left_alone(model, tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(InputError, match="does not hold the rows of a comparison; name another file with --out"):
        fill(path, model, TWO, judge, policies=["uniform"], budgets=["20%"])
    assert text == path.read_text()


@pytest.mark.parametrize("text", ["", "uniform int8", "uniform codec=int8 codec=int4", "uniform int=8", "codec=int8"])
def test_a_policy_of_another_form_is_refused(text: str) -> None:
    """Nothing in it is ignored."""
    with pytest.raises(ScaleKVError):
        read_policy(text)


def test_parts_and_options_are_set() -> None:
    policy = read_policy("scalekv merger=fold codec=int4", {"window": "9"})
    assert "scalekv merger=fold codec=int4" == policy.name
    assert 9 == policy.selector.window


def test_batches_are_alike() -> None:
    """Each has prompts of all kinds, at seeds of its own: so they scatter as other seeds would."""
    for batch in digits(4, 20):
        assert [str(label) for label in range(10)] * 2 == batch.prompts
        assert 2 == len(set(batch.seeds))
    for part in zip(*[iter(captions(3))] * len(TASKS), strict=True):
        assert list(TASKS) == [question.caption.task for question in part]
        assert 1 == len({question.seed for question in part})


@pytest.mark.thorough
def test_digits_are_judged_by_their_prompts() -> None:
    """The judge is told what every picture should be, in the order in which they are drawn."""
    batches = digits(1, 5)
    images = torch.cat([load_model("var-tiny").generate(b.prompts, seeds=b.seeds).images for b in batches])
    assert {"recognised": 1.0} == judge_of(batches)(images)
    assert judge_of(batches)(images.flip(0))["recognised"] < 0.5


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 and no traceback."""

    def main() -> None:
        read_policy("nobody")

    monkeypatch.setattr("sys.argv", ["compare"])
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert 2 == stopped.value.code
    assert capsys.readouterr().err.startswith("scalekv: no policy is called 'nobody'")
