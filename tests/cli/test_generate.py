"""``scalekv generate``: images, files, tables and refusals."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import attrs
import pytest
import torch
from safetensors.torch import save_file

from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.cli import main
from scalekv_core.memory.batch import Batch
from scalekv_core.memory.need import baseline_need
from scalekv_core.memory.plan import plan_batch
from scalekv_core.testing import toy
from tests.cli.conftest import windowed

TOY = ("generate", "3", "5", "--model", "toy")
WEIGHTS = sum(Batch(model="toy", card=toy.ToyCard()).weights.values())


def record(directory: str = "scalekv-out") -> dict:
    return json.loads((Path(directory) / "record.json").read_text())


class TestOnePolicy:
    @pytest.mark.parametrize("budget", ["50%", "10 KB"])
    def test_a_policy_is_planned_once(self, run, monkeypatch, budget) -> None:
        """One plan serves the memory check and every session."""
        planned = []
        allocate = toy.Even.allocate

        def counting(allocator: object, geometry: object, *rest: object) -> object:
            planned.append(geometry)
            return allocate(allocator, geometry, *rest)

        monkeypatch.setattr(toy.Even, "allocate", counting)
        ran = run(*TOY, "--policy", "windowed", "--budget", budget)

        assert 0 == ran.code, ran.err
        assert 1 == len(planned)

    def test_writes_pictures_and_record(self, run, picture) -> None:
        """The folder has the unmodified and compressed images, both side by side, and the record."""
        ran = run(*TOY, "--policy", "windowed", "--out", "out")

        assert 0 == ran.code
        names = ["baseline.png", "compressed.png", "full.png", "record.json", "side_by_side.png"]
        assert names == sorted(file.name for file in Path("out").iterdir())
        assert (32, 2 * 40, 3) == picture("out/baseline.png").shape == picture("out/compressed.png").shape

    def test_pictures_are_what_the_unmodified_model_draws(self, run, picture) -> None:
        """baseline.png is generated outside of any session."""
        run(*TOY, "--policy", "windowed")
        images = toy.ToyCard().load().generate(["3", "5"], seeds=[0, 0]).images

        wanted = (images * 255).round().to(torch.uint8).permute(2, 0, 3, 1).reshape(32, 80, 3)
        assert wanted.tolist() == picture("scalekv-out/baseline.png").tolist()

    def test_memory_is_the_plan_and_less_than_unmodified(self, run) -> None:
        """Planned, resident, peak and unmodified bytes are in the record and in the table."""
        ran = run(*TOY, "--policy", "windowed")
        memory = record()["policies"][0]["memory"]

        assert memory["planned_bytes"] == memory["resident_bytes"] < memory["peak_bytes"]
        assert memory["resident_bytes"] < memory["unmodified_bytes"] == 2 * 29 * 3 * 4 * 2 * 8 * 4
        for word in ("planned", "resident", "peak", "unmodified"):
            assert word in ran.out

    def test_fidelity_has_a_figure_for_every_scale(self, run) -> None:
        """Agreement, forced agreement and divergence are given per scale; the first scale has no history and is exact."""
        run(*TOY, "--policy", "windowed")
        fidelity = record()["policies"][0]["fidelity"]

        for name in ("agreement", "forced_agreement", "kl"):
            assert 4 == len(fidelity[name])
        assert (1.0, 1.0, 0.0) == tuple(fidelity[name][0] for name in ("agreement", "forced_agreement", "kl"))
        assert not fidelity["identical"]
        assert 0 < fidelity["kl"][-1]

    def test_everything_is_identical(self, run) -> None:
        """A policy that keeps everything generates the same bits."""
        ran = run(*TOY, "--policy", "everything")
        fidelity = record()["policies"][0]["fidelity"]

        assert fidelity["identical"]
        assert fidelity["psnr"] is None
        assert [0.0] * 4 == fidelity["kl"]
        assert "identical images" in ran.out

    def test_the_record_repeats_the_run(self, run) -> None:
        """The command in the record gives the same figures."""
        run(*TOY, "-p", "windowed", "-b", "20% of all", "-o", "window=1", "--selector", "windowed", "-n", "2")
        first = record()
        run(*shlex.split(first["command"])[1:])

        again = record()
        assert {**first, "date": ""} == {**again, "date": ""}
        assert [0, 1, 0, 1] == first["seeds"]
        assert {"window": 1, "end": "last"} == first["policies"][0]["parts"]["selector"]["options"]
        assert {"scalekv", "torch", "python"} <= set(first["versions"])
        assert first["model"]["fingerprint"].startswith("sha256:")
        assert first["files"] == ["baseline.png", "compressed.png", "full.png", "side_by_side.png", "record.json"]

    def test_without_the_unmodified_model(self, run) -> None:
        """--no-baseline generates only the compressed images."""
        ran = run(*TOY, "--policy", "windowed", "--no-baseline")

        assert 0 == ran.code
        assert ["compressed.png", "record.json"] == sorted(file.name for file in Path("scalekv-out").iterdir())
        assert record()["policies"][0]["fidelity"] is None

    def test_former_names(self, run, picture) -> None:
        """--no-full still means --no-baseline, and full.png is baseline.png, with a line that says so."""
        ran = run(*TOY, "--policy", "windowed", "--no-full")

        assert (
            "scalekv: --full/--no-full is now --baseline/--no-baseline; the former name goes in the next version"
            == (ran.complaint)
        )
        assert not Path("scalekv-out/baseline.png").exists()

        ran = run(*TOY, "--policy", "windowed", "--full")
        assert "full.png is baseline.png under its former name, for the last time" in ran.out
        assert Path("scalekv-out/full.png").read_bytes() == Path("scalekv-out/baseline.png").read_bytes()
        assert "--full" not in run("generate", "--help").out

    def test_fits_eighty_columns(self, run) -> None:
        """Tables fit eighty columns."""
        out = run(*TOY, "--policy", "windowed").out + run(*TOY, "-p", "windowed", "-p", "everything").out

        assert 80 >= max(len(line) for line in out.splitlines())


class TestSeveralPolicies:
    def test_one_sheet_and_one_line_each(self, run, picture) -> None:
        """policies.png has the unmodified row and one for each policy; tables compare the figures."""
        ran = run(*TOY, "-p", "windowed", "-p", "toy-latest", "-p", "everything", "-b", "40%")

        assert 0 == ran.code
        assert ["windowed", "toy-latest", "everything"] == [one["name"] for one in record()["policies"]]
        assert {"policies.png", "compressed-windowed.png"} < set(record()["files"])
        assert picture("scalekv-out/policies.png").shape[0] > 4 * 128

    def test_a_policy_that_spends_no_budget_keeps_its_own(self, run) -> None:
        """A policy without a budget keeps its own in a comparison."""
        run(*TOY, "-p", "windowed", "-p", "everything", "-b", "40%")

        assert ["40% of history", "100% of history"] == [one["budget"] for one in record()["policies"]]

    def test_all_leaves_out_what_cannot_be_done_and_says_so(self, run) -> None:
        """`all` takes every policy that spends a budget, and names those whose profile is missing."""
        ran = run(*TOY, "-p", "all", "-b", "40%")

        assert 0 == ran.code
        assert ["toy-latest", "windowed"] == [one["name"] for one in record()["policies"]]
        assert ran.complaint.startswith("scalekv: policy 'profiled' is left out: policy 'profiled' needs an attention")

    def test_all_of_which_nothing_can_be_done_is_refused(self, run) -> None:
        """`all` without any policy that can run is refused."""
        ran = run(*TOY, "-p", "all", "-o", "depth=3")

        assert 2 == ran.code
        assert "no option 'depth'" in ran.err.splitlines()[-1]


class TestConfig:
    FILE = """
policy = "windowed"
budget = "50%"
[options]
window = 1
[selector]
end = "first"
"""

    def config(self, text: str) -> str:
        Path("run.toml").write_text(text)
        return "run.toml"

    def test_a_file_says_what_the_line_does_not(self, run) -> None:
        """Policy, budget and options can come from a file."""
        run(*TOY, "--config", self.config(self.FILE))
        (one,) = record()["policies"]

        assert ("windowed", "50% of history") == (one["name"], one["budget"])
        assert {"window": 1, "end": "first"} == one["parts"]["selector"]["options"]

    def test_the_line_wins(self, run) -> None:
        """Options of the command line override those of the file."""
        run(*TOY, "--config", self.config(self.FILE), "-b", "40%", "-o", "end=last")
        (one,) = record()["policies"]

        assert "40% of history" == one["budget"]
        assert {"window": 1, "end": "last"} == one["parts"]["selector"]["options"]

    def test_another_part_makes_the_table_of_the_first_void(self, run) -> None:
        """A replaced selector drops the file's options for the former one."""
        file = self.config('policy = "windowed"\n[selector]\nname = "windowed"\nend = "first"\n')
        ran = run(*TOY, "--config", file, "--selector", "toy-latest")

        assert 0 == ran.code
        assert "toy-latest" == record()["policies"][0]["parts"]["selector"]["name"]

    def test_several_policies_and_a_part_by_name_alone(self, run) -> None:
        """The file may list policies, and give a part by its name."""
        ran = run(*TOY, "--config", self.config('policy = ["windowed", "toy-latest"]\nselector = "windowed"\n'))

        assert 0 == ran.code
        assert ["windowed selector=windowed", "toy-latest selector=windowed"] == [
            p["name"] for p in record()["policies"]
        ]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('polcy = "windowed"', "unknown key 'polcy'; did you mean 'policy'?"),
            ("policy = 3", "policy is a name or a list of names; got 3"),
            ("policy = []", "policy is a name or a list of names; got []"),
            ('policy = ""', "policy is a name or a list of names; got ''"),
            ("budget = 10", "budget is a text such as '10%'; got 10"),
            ("options = 1", "options is a table"),
            ("selector = 1", "a part is a name or a table"),
            ("[selector]\nname = 1", "a part is a name or a table"),
            ("policy = ", "run.toml: Invalid value"),
            ('policy = "windowed"\n[options]\nwindow = "wide"', "window='wide': wanted int"),
            ('policy = "windowed"\n[selector]\nwindow = 0', "refuses window=0"),
        ],
    )
    def test_a_bad_file_is_one_line(self, run, text: str, said: str) -> None:
        """Unknown keys, wrong types and broken files end in one line."""
        ran = run(*TOY, "--config", self.config(text))

        assert 2 == ran.code
        assert said in ran.complaint

    def test_a_missing_file_is_one_line(self, run) -> None:
        """The error names the file."""
        assert "config file none.toml cannot be read" in run(*TOY, "--config", "none.toml").complaint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "tooy"], "no model is called 'tooy'; did you mean 'toy'?"),
        (["--policy", "windowd"], "no policy is called 'windowd'; did you mean 'windowed'?"),
        (["--selector", "latest"], "no selector is called 'latest'"),
        (["--codec", "int3"], "no codec is called 'int3'"),
        (["--option", "windw=3"], "policy 'windowed' has no option 'windw'; did you mean 'window'?"),
        (["--option", "codec.window=3"], "codec of policy 'windowed' has no option 'window'"),
        (["--option", "window"], "an option is given as name=value"),
        (["--option", "window=0"], "'window' must be >= 1: 0"),
        (["--option", "window=many"], "window='many': wanted int"),
        (["--option", "end=middle"], "end='middle': wanted one of last, first"),
        (["--budget", "0%"], "budget 0% of history holds nothing"),
        (["--budget", "101%"], "is more than the whole history"),
        (["--budget", "10 apples"], "budget '10 apples' is not understood"),
        (["--budget", "1 token"], "is too small for policy 'windowed': after scale "),
        (["--policy", "windowed", "--policy", "windowed"], "policy 'windowed' is named twice"),
        (["--policy", "windowed", "--policy", "all"], "policy 'all' already includes the others"),
        (["--policy", "profiled"], "policy 'profiled' needs an attention profile"),
        (["--policy", "profiled", "--profile", "none.safetensors"], "none.safetensors is not a profile"),
        (["--profile", "text.toml"], "text.toml is not a profile"),
        (["--model", "toy-weights"], "model 'toy-weights' does not ship with weights; give --weights PATH"),
        (["--model", "toy-weights", "--weights", "none"], "checkpoint none cannot be used"),
        (["--model", "toy-weights", "--weights", "text.toml"], "checkpoint text.toml cannot be used"),
        (["--model", "toy-weights", "--weights", "half.safetensors"], "checkpoint half.safetensors cannot be used"),
        (["12"], "model 'toy' generates from the prompts 0 to 9"),
        (["--device", "cuda:7"], "device 'cuda:7' cannot be used"),
        (["--device", "gpu"], "device 'gpu' cannot be used"),
        (["--dtype", "float23"], "no dtype is called 'float23'; did you mean"),
        (["--guidance", "-1"], "sampling needs guidance at least 0"),
        (["--temperature", "0"], "sampling needs temperature"),
        (["--seed", "-1"], "--seed needs seeds that are whole numbers from 0 to 2**64 - 1; got -1"),
        (["--seed", "18446744073709551615", "-n", "2"], "got 18446744073709551616"),
        (["caf\udce9"], "prompt 1 of 1 is not valid text at character 4"),
        (["--device", "meta"], "device 'meta'"),
        (
            ["--seed", "1", "--seed", "2", "-n", "3"],
            "3 images of each prompt need one seed (of the first image) or 3; got 2",
        ),
        (["--out", "text.toml"], "cannot write to the directory text.toml: text.toml is a file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(run, arguments: list[str], said: str) -> None:
    """A mistake has exit code 2, one line on stderr, and writes no file."""
    Path("text.toml").write_text("policy = 'windowed'\n")
    save_file({"x": torch.zeros(10)}, "whole.safetensors")
    Path("half.safetensors").write_bytes(Path("whole.safetensors").read_bytes()[:60])
    model = () if "--model" in arguments else ("--model", "toy")
    policy = () if "--policy" in arguments else ("--policy", "windowed")
    ran = run("generate", *model, *policy, *arguments)

    assert 2 == ran.code
    assert ran.complaint.startswith("scalekv: ")
    assert said in ran.complaint
    assert not Path("scalekv-out").exists()


@pytest.mark.parametrize("arguments", [["--imges", "3"], ["-n", "0"], ["-n", "x"], ["--config"]])
def test_a_misspelt_command_line_is_a_mistake_too(run, arguments: list[str]) -> None:
    """Usage errors have exit code 2."""
    ran = run(*TOY, *arguments)

    assert 2 == ran.code
    assert "Traceback" not in ran.err


class TestNoRoom:
    """A batch larger than the free memory is refused before the model is loaded."""

    @pytest.fixture
    def memory(self, monkeypatch):
        """Sets the free memory; loading any model fails the test."""

        def there_are(count: int | None) -> None:
            monkeypatch.setattr("scalekv_core.memory.free.memory_for_process", lambda device: count)
            monkeypatch.setattr(toy.ToyCard, "load", lambda card, **how: pytest.fail("a model was loaded"))

        return there_are

    def test_says_what_takes_how_much_and_what_would_fit(self, run, memory) -> None:
        """The line lists every part, the largest batch and budget, and the cheapest change."""
        memory(230 * 1024)
        ran = run(*TOY, "--policy", "windowed", "--images", "4")

        assert (2, "") == (ran.code, ran.out)
        assert "a batch of 8 images of 'toy' under policy 'windowed' at 50% of history needs " in ran.complaint
        assert " (while generating scale 3: transformer 46.1 KiB, cache " in ran.complaint
        assert "), and 230.0 KiB are free; the largest batch that fits is " in ran.complaint
        assert "; the largest budget that fits is " in ran.complaint
        assert "; cheapest change: " in ran.complaint
        assert not Path("scalekv-out").exists()

    def test_weights_that_do_not_fit_are_beyond_help(self, run, memory) -> None:
        """If weights alone do not fit, the line says that no image fits."""
        memory(WEIGHTS - 1)

        assert "not even one image fits; no budget fits; no change helps: weights take 46.1 KiB" in (
            run(*TOY, "--policy", "windowed").complaint
        )

    def test_the_unmodified_model_can_be_left_out(self, run, memory, monkeypatch) -> None:
        """If only the baseline does not fit, the line names --no-baseline."""
        card = toy.ToyCard()
        batch = Batch(model="toy", card=card, images=2, guidance=False)
        need = plan_batch(batch, windowed(), keep_text_encoder=False).need.total
        assert need < baseline_need(batch).total

        memory(need)
        refused = run(*TOY, "--policy", "windowed")
        monkeypatch.undo()
        monkeypatch.setattr("scalekv_core.memory.free.memory_for_process", lambda device: need)

        assert (2, "") == (refused.code, refused.out)
        assert "the unmodified model, which generates 2 images, needs " in refused.complaint
        assert refused.complaint.endswith("the compressed run fits: leave the comparison out with --no-baseline")

    def test_what_fits_is_drawn(self, run, monkeypatch) -> None:
        """A batch that fits to the byte generates without the baseline."""
        batch = Batch(model="toy", card=toy.ToyCard(), images=2, guidance=False)
        need = plan_batch(batch, windowed(), keep_text_encoder=False).need.total
        monkeypatch.setattr("scalekv_core.memory.free.memory_for_process", lambda device: need)

        assert 0 == run(*TOY, "--policy", "windowed", "--no-baseline").code

    def test_of_all_policies_those_that_fit_are_drawn(self, run, monkeypatch) -> None:
        """Policies that do not fit are left out with the reason."""
        batch = Batch(model="toy", card=toy.ToyCard(), images=2, guidance=False)
        need = plan_batch(batch, windowed(), "40%", keep_text_encoder=False).need.total
        monkeypatch.setattr("scalekv_core.memory.free.memory_for_process", lambda device: need)
        ran = run(*TOY, "-p", "all", "-b", "40%", "--no-baseline", "-o", "selector.window=2")

        assert 0 == ran.code, ran.err
        assert ["windowed"] == [one["name"] for one in record()["policies"]]

    @pytest.mark.parametrize("how", ["nobody can tell how much there is", "the card does not say what it takes"])
    def test_what_cannot_be_told_is_not_refused(self, run, monkeypatch, how: str) -> None:
        """Where the need is unknown, nothing is refused."""
        monkeypatch.setattr(
            "scalekv_core.memory.free.memory_for_process", lambda device: None if how.startswith("nobody") else 1
        )
        if how.startswith("the card"):
            monkeypatch.setattr(toy.ToyCard, "bare", toy.ModelCard.bare)

        assert 0 == run(*TOY, "--policy", "windowed").code

    def test_a_missing_profile_is_told_before_the_model_is_loaded(self, run, memory) -> None:
        """The line names the command that makes a profile."""
        memory(None)
        ran = run(*TOY, "--policy", "profiled")

        assert (2, "") == (ran.code, ran.out)
        assert "make one with: scalekv calibrate --model toy" in ran.complaint


class TestTrouble:
    TROUBLED = ("generate", "3", "--model", "toy-trouble", "--policy", "windowed")

    def test_an_interrupt_is_one_line(self, run, trouble) -> None:
        """Ctrl-C gives exit code 130, restores the model, and writes nothing."""
        models = trouble(KeyboardInterrupt(), after=6)
        ran = run(*self.TROUBLED)

        assert (130, "scalekv: interrupted; nothing was written") == (ran.code, ran.complaint)
        assert isinstance(models[-1].module.new_cache(None), ConcatCache)
        assert not Path("scalekv-out").exists()

    @pytest.mark.parametrize(
        ("after", "said"),
        [
            (6, "under policy 'windowed', whose cache of 1 row is planned at"),
            (1, "while the unmodified model generated 1 row,"),
        ],
    )
    def test_no_memory_is_one_line_with_the_plan(self, run, trouble, after: int, said: str) -> None:
        """Running out of memory has exit code 2 and gives the cache's planned bytes and what to do."""
        trouble(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), after=after)
        ran = run(*self.TROUBLED)

        assert 2 == ran.code
        assert said in ran.complaint
        assert "Tried to allocate 2 GiB" in ran.complaint

    @pytest.mark.parametrize(
        ("room", "said"), [(2**40, "the largest budget that fits is '100% of history'"), (1, "no budget fits")]
    )
    def test_no_memory_says_what_would_fit(self, run, trouble, monkeypatch, room: int, said: str) -> None:
        """The line lists the batch part by part and the largest budget that fits."""
        trouble(torch.cuda.OutOfMemoryError("CUDA out of memory"), after=6)
        asked = iter([None, room])  # before anything is loaded nobody can tell, when memory has run out somebody can
        monkeypatch.setattr("scalekv_core.memory.free.memory_for_process", lambda device: next(asked))
        ran = run(*self.TROUBLED)

        assert said in ran.complaint
        assert "a batch of 1 image of 'toy-trouble' under policy 'windowed' at 50% of history needs " in ran.complaint
        assert "transformer 46.1 KiB, cache " in ran.complaint

    def test_no_memory_without_a_way_to_tell(self, run, trouble, monkeypatch) -> None:
        """Where free memory is unknown, the line still gives the plan."""
        trouble(torch.cuda.OutOfMemoryError("CUDA out of memory"), after=6)
        monkeypatch.setattr("scalekv_core.memory.free.available_memory", lambda device: None)
        ran = run(*self.TROUBLED)

        assert 2 == ran.code
        assert "is planned at" in ran.complaint
        assert "transformer" not in ran.complaint

    def test_a_bug_is_not_hidden(self, run, trouble) -> None:
        """An unexpected exception shows its traceback."""
        trouble(ZeroDivisionError("a bug"), after=0)

        with pytest.raises(ZeroDivisionError):
            main(list(self.TROUBLED))


class TestNotANumber:
    """NaN of a model is shown as NaN in every figure."""

    @pytest.fixture
    def overflowing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The compressed model's logits are NaN at the last scale when tokens are forced."""
        generate = toy.ToyImageModel.generate

        def broken(self, *args, forced=None, **kwargs):
            made = generate(self, *args, forced=forced, **kwargs)
            if forced is not None:
                nan = torch.full_like(made.logits[-1], math.nan)
                return attrs.evolve(made, logits=(*made.logits[:-1], nan))
            return made

        monkeypatch.setattr(toy.ToyImageModel, "generate", broken)

    def test_is_null_with_a_reason_in_the_record(self, run, overflowing: None) -> None:
        """The record holds null with a reason; other scales keep their figures."""
        run(*TOY, "--policy", "everything")
        fidelity = record()["policies"][0]["fidelity"]

        assert [0.0, 0.0, 0.0, None] == fidelity["kl"]
        assert {"psnr", "image_psnr", "kl"} == set(fidelity["null"])
        assert "not a number" in fidelity["null"]["kl"]
        assert "infinite: identical images have no noise" == fidelity["null"]["psnr"]

    @pytest.mark.parametrize("policies", [["everything"], ["everything", "windowed"]])
    def test_is_shown_in_the_tables(self, run, overflowing: None, policies: list[str]) -> None:
        """Tables show nan with a line that explains it."""
        out = run(*TOY, *(word for name in policies for word in ("-p", name))).out

        assert "nan" in out
        assert "nan: the model computed something that is not a number" in " ".join(out.split())


def test_weights_that_are_not_finite_may_be_allowed(run, monkeypatch) -> None:
    """The option reaches the model's card, which is otherwise called without it."""
    asked = []

    def load(name: str, **options: object) -> object:
        asked.append(options["allow_nonfinite"])
        return toy.ToyCard().load()

    monkeypatch.setattr("scalekv_core.plugins.registry.load_model", load)
    for option in ([], ["--allow-nonfinite"]):
        assert 0 == run(*TOY, "--policy", "windowed", "--no-baseline", *option).code
    assert [False, True] == asked


def test_a_model_without_an_example_needs_a_prompt(run, monkeypatch) -> None:
    """What is left out is the model's example, which a plugin's model may lack."""
    monkeypatch.setattr(toy.ToyCard, "example", "")
    ran = run("generate", "--model", "toy", "--policy", "windowed")

    assert 2 == ran.code
    assert "model 'toy' has no example; name a prompt: scalekv generate PROMPT ..." in ran.complaint
