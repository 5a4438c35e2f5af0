"""`dit-eval demo` and `sample --model digits`, as a user runs them."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from dit_eval.generation.shards import ShardFolder
from tests.command import assert_one_sentence, dit_eval


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_demo_prints_the_table_and_writes_pictures_and_the_report(tmp_path: Path) -> None:
    """With a tenth of its images; `make demo` runs all of it."""
    arguments = ("demo", "--device", "cpu", "--num-samples", 50)
    shown = dit_eval(*arguments)
    assert shown.returncode == 0, shown.stderr
    for model, cfg in product(("digits", "digits-sit"), ("1.00", "1.25", "1.50")):
        assert f"{model} (cfg={cfg})" in shown.stdout
        assert (tmp_path / "demo" / model / f"cfg-{cfg}.png").is_file()
    assert (tmp_path / "demo" / "report.html").is_file()
    assert "reproduce table2 --out" in shown.stdout
    (warning,) = (line for line in shown.stderr.splitlines() if "50 samples for" in line)
    assert warning.startswith("Warning: ")
    assert "the covariance is rank-deficient" in warning

    assert dit_eval(*arguments).stdout == shown.stdout


def times(folder: Path) -> dict[str, int]:
    """When the batches and results in a folder were written."""
    files = [*folder.rglob("*.npz"), *folder.rglob("*.json")]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


def test_demo_goes_on_after_its_folder_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("demo", "--device", "cpu", "--num-samples", 20, "--out")
    first = dit_eval(*arguments, "demo")
    assert first.returncode == 0, first.stderr
    made = times(tmp_path / "demo")
    assert len(made) == 18
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    (tmp_path / "demo").rename(moved)
    (moved / "report.html").unlink()
    monkeypatch.chdir(moved.parent)
    again = dit_eval(*arguments, "moved")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout.replace("demo/", "moved/")
    assert times(moved) == made
    assert (moved / "report.html").is_file()

    stale = moved / "digits" / "cfg-1.25.result.json"
    result = json.loads(stale.read_text("utf-8"))
    digest = result["reference"]["digest"]
    result["reference"]["digest"] = "0" * 64
    stale.write_text(json.dumps(result), "utf-8")
    monkeypatch.chdir(moved)  # where `digits` is a folder, too
    assert dit_eval(*arguments, ".").returncode == 0
    assert json.loads(stale.read_text("utf-8"))["reference"]["digest"] == digest
    assert {name for name, time in times(moved).items() if time != made[name]} == {
        "digits/cfg-1.25.result.json"
    }


def test_interrupted_demo_says_how_far_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = ShardFolder.write, []

    def interrupted_write(self: ShardFolder, *arguments: Any, **options: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(write(self, *arguments, **options))

    monkeypatch.setattr(ShardFolder, "write", interrupted_write)
    ran = dit_eval("demo", "--device", "cpu", "--num-samples", 50)
    assert ran.returncode == 130
    assert ran.stderr.splitlines()[-1] == (
        "Interrupted. 32 of 50 images of demo/digits/cfg-1.25.npz are sampled. 1 of 3 batches in demo/digits "
        "are sampled and evaluated. Run the same command again to resume."
    )


def test_sample_takes_steps_and_decoder_from_the_manifest_and_fid_its_protocol() -> None:
    options = ("--model", "digits", "--num", 8, "--steps", 4, "--out", "d.npz", "--grid", "d.png")
    sample = dit_eval("sample", *options)
    assert sample.returncode == 0, sample.stderr
    fid = dit_eval("fid", "d.npz", "digits")
    assert fid.returncode == 0, fid.stderr
    assert "FID-8, protocol digits" in fid.stdout
    assert "custom" not in fid.stdout


def test_a_protocol_that_does_not_fit_the_reference_is_a_sentence() -> None:
    options = ("--model", "digits", "--num", 8, "--steps", 2, "--out", "d.npz")
    assert dit_eval("sample", *options).returncode == 0
    fid = dit_eval("fid", "d.npz", "digits", "--protocol", "none")
    assert_one_sentence(fid)
    assert fid.stderr.startswith("Error: unknown protocol 'none'")
    unknown = dit_eval("sample", "--model", "digit")
    assert_one_sentence(unknown)
    assert "Did you mean digits or digits-sit?" in unknown.stderr
