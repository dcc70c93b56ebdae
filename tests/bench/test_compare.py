"""Records are compared only if their settings are equal."""

from __future__ import annotations

import copy
import json

import pytest
from attrs import evolve

from scalekv_core.bench import Bench, Unmodified, compare_records, read_record
from scalekv_core.bench.figures import as_record
from scalekv_core.errors import InputError


@pytest.fixture(scope="module")
def record(settings, contender):
    some = [Unmodified.of(settings.geometry), contender("full"), contender("scalekv", "40%")]
    result = Bench(evolve(settings, repeats=1), some, notes={"profile": "assumed"}).run()
    return json.loads(json.dumps(as_record(result, versions={"torch": "1"})))


def test_a_record_beside_itself_has_not_changed(record):
    comparison = compare_records(record, record)
    assert [one.name for one in comparison.changes] == ["unmodified", "full", "scalekv"]
    assert all(one.ratio[0] == one.ratio[1] and one.peak[0] == one.peak[1] for one in comparison.changes)
    assert not (comparison.only)
    assert not (comparison.versions)
    assert not (comparison.cut_short)


def test_other_settings_are_refused_each_by_name_in_one_line(record):
    other = copy.deepcopy(record)
    other["settings"] |= {"threads": 8, "dtype": "bfloat16", "profile": "measured on x"}
    with pytest.raises(InputError) as refused:
        compare_records(record, other)
    text = str(refused.value)
    assert "threads 1 / 8" in text
    assert "dtype float32 / bfloat16" in text
    assert "profile assumed / measured on x" in text
    assert "\n" not in text
    assert "heads" not in text


def test_another_budget_or_option_of_a_policy_that_both_have_is_refused(record):
    other = copy.deepcopy(record)
    other["contenders"]["scalekv"]["budget"] = "20% of history"
    with pytest.raises(InputError, match="scalekv: budget 40% of history / 20% of history"):
        compare_records(record, other)
    other = copy.deepcopy(record)
    other["contenders"]["scalekv"]["parts"]["selector"] = "another"
    with pytest.raises(InputError, match=r"scalekv: selector .* / another"):
        compare_records(record, other)


def test_other_contenders_repeats_and_versions_are_told_and_not_refused(record):
    other = copy.deepcopy(record)
    del other["contenders"]["scalekv"]
    other |= {"complete": False, "versions": {"torch": "2"}}
    other["contenders"]["full"]["ratio"]["median"] *= 2
    comparison = compare_records(record, other)
    assert comparison.only == ("scalekv",)
    assert comparison.cut_short == ("second",)
    assert comparison.versions == {"torch": ("1", "2")}
    assert comparison.changes[1].ratio[1] == 2 * comparison.changes[1].ratio[0]


def test_records_without_a_contender_in_common_are_refused(record):
    other = copy.deepcopy(record)
    other["contenders"] = {"x": copy.deepcopy(record["contenders"]["full"])}
    with pytest.raises(InputError, match="no contender in common"):
        compare_records(record, other)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"scalekv_bench": 2}', "1", '{"scalekv_bench": 1, "x": NaN}'])
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"record"):
        read_record(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path / "none.json")
