"""`dit-eval demo` and `sample --model digits`, as a user runs them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

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

    assert dit_eval(*arguments).stdout == shown.stdout


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
    assert "there is no model 'digit'" in unknown.stderr
