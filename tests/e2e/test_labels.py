"""Labels, dates and command lines: from `sample` through `fid` into `compare`."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dit_eval
from dit_eval.results.result import Result, read_result
from tests.command import dit_eval as run

SAMPLE = ("sample", "--model", "digits", "--num-samples", 8, "--steps", 2)


def test_a_label_goes_from_the_batch_into_the_result_and_decides_no_image(tmp_path: Path) -> None:
    plain, labelled = tmp_path / "plain.npz", tmp_path / "labelled.npz"
    assert run(*SAMPLE, "--out", plain).returncode == 0
    assert run(*SAMPLE, "--out", labelled, "--label", "run a, step 100").returncode == 0
    records = [json.loads(path.with_suffix(".json").read_text("utf-8")) for path in (plain, labelled)]
    assert [record["label"] for record in records] == [None, "run a, step 100"]
    assert "label" not in records[1]["plan"]
    assert records[0]["plan"] == records[1]["plan"]
    assert plain.read_bytes() == labelled.read_bytes()

    file = tmp_path / "result.json"
    command = ("fid", labelled, "digits", "--json", file)
    assert run(*command).returncode == 0
    result = read_result(file)
    assert (result.label, result.name) == ("run a, step 100", "run a, step 100")
    assert result.command == shlex.join(["dit-eval", *map(str, command)])
    assert result.date is not None
    age = datetime.now(UTC) - datetime.fromisoformat(result.date)
    assert timedelta() <= age < timedelta(minutes=10)
    assert "label" not in result.samples
    (group,) = dit_eval.compare(file).groups
    assert group.rows[0].training.step == 100

    assert run(*command, "--label", "other").returncode == 0
    assert read_result(file).label == "other"


def test_a_finished_batch_takes_a_new_label_without_sampling_again(tmp_path: Path) -> None:
    out = tmp_path / "batch.npz"
    assert run(*SAMPLE, "--out", out, "--label", "old").returncode == 0
    record, written = json.loads(out.with_suffix(".json").read_text("utf-8")), out.stat().st_mtime_ns
    assert run(*SAMPLE, "--out", out, "--label", "new").returncode == 0
    assert json.loads(out.with_suffix(".json").read_text("utf-8")) == {**record, "label": "new"}
    assert run(*SAMPLE, "--out", out).returncode == 0
    assert json.loads(out.with_suffix(".json").read_text("utf-8"))["label"] == "new"
    assert out.stat().st_mtime_ns == written


def test_from_python_a_result_has_label_and_date_and_no_command(tmp_path: Path) -> None:
    out = dit_eval.generate("digits", num=8, steps=2, out=tmp_path / "batch.npz", label="mine")
    result = dit_eval.evaluate(out, "digits")
    assert result is not None
    assert result.label == "mine"
    assert result.date is not None
    assert result.command is None
    again = dit_eval.evaluate(out, "digits", label="again")
    assert again is not None
    assert again.label == "again"
    assert Result.from_json(result.to_json()) == result
