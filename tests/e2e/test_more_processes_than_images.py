"""torchrun with more processes than images: some of them have nothing to do, and no number changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dit_eval.io.assets import sha256
from dit_eval.results.result import read_result
from tests.command import dit_eval

ROOT = Path(__file__).resolve().parents[2]


def torchrun(processes: int, *arguments: object) -> None:
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "-m",
        "dit_eval",
    ]
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def sample(num: int, out: Path) -> list[object]:
    return [
        "sample",
        "--model",
        "digits",
        "--num-samples",
        num,
        "--steps",
        3,
        "--device",
        "cpu",
        "--out",
        out,
    ]


def test_one_image_is_sampled_by_two_processes(tmp_path: Path) -> None:
    torchrun(2, *sample(1, tmp_path / "two.npz"))
    assert dit_eval(*sample(1, tmp_path / "one.npz")).returncode == 0
    assert sha256(tmp_path / "two.npz") == sha256(tmp_path / "one.npz")


@pytest.mark.slow
def test_four_images_are_evaluated_by_five_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precision and recall need four images; the share of rank 0 is empty."""
    assert dit_eval(*sample(4, tmp_path / "b.npz")).returncode == 0
    fid = ["fid", tmp_path / "b.npz", "digits", "--device", "cpu", "--json"]
    torchrun(5, *fid, tmp_path / "five.json")
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))  # another one, without the features
    assert dit_eval(*fid, tmp_path / "one.json").returncode == 0
    five, one = (read_result(tmp_path / f"{name}.json") for name in ("five", "one"))
    assert five.environment["processes"] == 5
    assert five.metrics == pytest.approx(one.metrics, rel=1e-6)
