"""The result: what it says, and that it comes back from JSON as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dit_eval.errors import ResultError
from dit_eval.results.result import Result, read_result

RESULT = Result(
    metrics={"fid": 2.2712345, "inception_score": 278.24},
    measured_against={"fid": "stored statistics", "inception_score": "itself"},
    missing={"precision": "the reference has statistics only"},
    protocol={
        "name": "adm",
        "network": "inception-2015-12-05",
        "fingerprint": "0123456789ab",
        "weights": {"file": "w.pth", "sha256": "a" * 64, "official": False},
    },
    samples={"path": "batch.npz", "n": 50_000, "size": [256, 256], "digest": "b" * 64},
    reference={"path": "ref.npz", "statistics": "stored"},
    environment={"dit_eval": "0", "torch": "2", "device": "cpu", "seconds": 1.0},
    warnings=("something",),
)


def test_a_result_comes_back_from_json_as_it_was() -> None:
    assert Result.from_json(RESULT.to_json()) == RESULT


def test_results_from_before_labels_are_read_and_dates_do_not_make_results_different() -> None:
    content = json.loads(RESULT.to_json())
    for key in ("label", "date", "command"):
        assert content.pop(key) is None
    assert Result.from_json(json.dumps(content)) == RESULT
    later = replace(RESULT, date="2026-11-26T09:30:00+00:00", command="dit-eval fid a.npz b.npz")
    assert later == RESULT
    assert Result.from_json(later.to_json()).date == later.date
    with pytest.raises(ResultError, match="not a result"):
        Result.from_json(json.dumps({**content, "label": 3}))


HOLLOW = json.dumps({**json.loads(RESULT.to_json()), "samples": {}})


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 1, "warnings": []}', "3", HOLLOW]
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ResultError, match="not a result of dit-eval"):
        Result.from_json(text)


def test_a_file_of_anything_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "batch.npz").write_bytes(b"PK\x03\x04\xff")
    for name, words in (
        ("batch.npz", "not a result of dit-eval"),
        ("absent", "cannot be read: No such file"),
    ):
        with pytest.raises(ResultError, match=rf"{name}:? {words}"):
            read_result(tmp_path / name)


def test_a_newer_schema_is_named() -> None:
    with pytest.raises(ResultError, match="a result of schema 2; this version reads schema 1"):
        Result.from_json(RESULT.to_json().replace('"schema": 1', '"schema": 2'))


def test_a_notebook_shows_intervals_and_warnings_and_runs_no_script_of_a_foreign_result() -> None:
    script = "<script>alert(1)</script>"
    shown = replace(
        RESULT,
        metrics={"fid": 2.2712345, "inception_score": 278.24},
        intervals={"fid": {"se": 0.05, "low": 2.17, "high": 2.37}},
        measured_against=dict.fromkeys(RESULT.metrics, script),
        missing={"precision": script},
        protocol={**RESULT.protocol, "name": script, "fingerprint": script},
        samples={**RESULT.samples, "path": script},
        warnings=(script,),
    )._repr_html_()
    assert "<td>2.2712</td><td>0.0980</td>" in shown
    assert "<td>278.2400</td><td></td>" in shown
    assert "<p>Warning: &lt;script&gt;" in shown
    assert "<script" not in shown


def test_half_widths_come_from_the_standard_error_and_those_of_shares_from_the_score_interval() -> None:
    ends = {"se": 2.0, "low": 0.0, "high": 6.2}
    result = replace(RESULT, intervals={"fid": ends, "precision": {"se": 0.0, "low": 0.9, "high": 1.0}})
    assert result.half_width("fid") == pytest.approx(1.959964 * 2)
    assert result.half_width("precision") == pytest.approx(0.05)
    assert result.half_width("recall") is None
    assert "3.92" in repr(result)
    assert "3.9199" in result.table()


def test_a_value_that_rounds_to_zero_has_no_sign() -> None:
    result = replace(RESULT, metrics={"fid": -1e-7})
    for shown in (result.table(), result._repr_html_()):
        assert "0.0000" in shown
        assert "-0.0000" not in shown


def test_the_table_fits_80_columns_and_shows_absence_with_its_reason() -> None:
    table = RESULT.table(width=80)
    assert max(map(len, table.splitlines())) <= 80
    assert "FID-50K" in table
    assert "2.2712" in table
    (line,) = (line for line in table.splitlines() if "Precision" in line)
    assert "absent" in line
    assert "statistics only" in line
    assert "Recall" not in table
    assert "custom" in table
