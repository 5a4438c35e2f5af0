"""Processes that share a cold cache: none fails, and all give the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 20


@pytest.mark.simulation
def test_two_evaluations_at_once_on_one_reference_with_a_cold_cache(tmp_path: Path) -> None:
    with np.load(ROOT / "reference_stats" / "digits.npz") as digits:
        np.savez(tmp_path / "ref.npz", digits["arr_0"][::2])
        for number in range(2):
            np.savez(tmp_path / f"samples{number}.npz", digits["arr_0"][1::2] ^ number)
    metrics: list[set[str]] = [set(), set()]
    for round_number in range(ROUNDS):
        cache = tmp_path / f"cache{round_number}"
        environment = os.environ | {"DIT_EVAL_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        arguments = ("ref.npz", "--protocol", "digits", "--device", "cpu", "--json", "-")
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "dit_eval", "fid", f"samples{number}.npz", *arguments],
                cwd=tmp_path,
                env=environment | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]
        for number, process in enumerate(processes):
            stdout, stderr = process.communicate(timeout=300)
            assert (process.returncode, stderr) == (0, "")
            metrics[number].add(json.dumps(json.loads(stdout)["metrics"]))
        assert sorted(path.suffix for path in (cache / "features").iterdir()) == [".npz"] * 3
    assert [len(found) for found in metrics] == [1, 1]
