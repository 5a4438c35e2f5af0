"""`dit-eval demo` and `sample --model digits`, as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner

from dit_eval import reproduce
from dit_eval.cli import main

ROOT = Path(__file__).resolve().parents[2]


def dit_eval(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dit_eval", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(autouse=True)
def checkout_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_demo_prints_the_table_and_writes_pictures_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tenth of its images; `make demo` runs all of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "measure_guidance", partial(reproduce.measure_guidance, num=50))
    shown = CliRunner().invoke(main, ["demo", "--device", "cpu"])
    assert shown.exit_code == 0, shown.output
    for model, cfg in product(("digits", "digits-sit"), ("1.00", "1.25", "1.50")):
        assert f"{model} (cfg={cfg})" in shown.stdout
        assert (tmp_path / "demo" / model / f"cfg-{cfg}.png").is_file()
    assert (tmp_path / "demo" / "report.html").is_file()
    assert "reproduce table2 --out" in shown.stdout

    again = CliRunner().invoke(main, ["demo", "--device", "cpu"])
    assert again.stdout == shown.stdout


def test_sample_takes_steps_and_decoder_from_the_manifest_and_fid_its_protocol(tmp_path: Path) -> None:
    options = ("--model", "digits", "--num", 8, "--steps", 4, "--out", "d.npz", "--grid", "d.png")
    sample = dit_eval("sample", *options, folder=tmp_path)
    assert sample.returncode == 0, sample.stderr
    fid = dit_eval("fid", "d.npz", "digits", folder=tmp_path)
    assert fid.returncode == 0, fid.stderr
    assert "FID-8, protocol digits" in fid.stdout
    assert "custom" not in fid.stdout


def test_a_protocol_that_does_not_fit_the_reference_is_a_sentence(tmp_path: Path) -> None:
    options = ("--model", "digits", "--num", 8, "--steps", 2, "--out", "d.npz")
    assert dit_eval("sample", *options, folder=tmp_path).returncode == 0
    fid = dit_eval("fid", "d.npz", "digits", "--protocol", "none", folder=tmp_path)
    assert fid.returncode == 2
    assert fid.stderr.startswith("Error: unknown protocol 'none'")
    unknown = dit_eval("sample", "--model", "digit", folder=tmp_path)
    assert unknown.returncode == 2
    assert "there is no model 'digit'" in unknown.stderr
