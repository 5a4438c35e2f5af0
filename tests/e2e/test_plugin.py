"""A plug-in from its file to numbers: drawn by several processes, killed, measured, checked, reported."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from dit_eval.generation.pipeline import generate
from dit_eval.io import assets
from dit_eval.io.assets import sha256
from tests.command import dit_eval

DIGITS = assets.folder("reference_stats") / "digits.npz"
PROCESSES = multiprocessing.get_context("forkserver")  # which loads torch once
PROCESSES.set_forkserver_preload([__name__])
BATCHES, KILLS = 20, 5
PLUGIN = """
import numpy as np
import torch

import dit_eval


def load(data, device):
    with np.load(data) as arrays:
        images, labels = (torch.from_numpy(arrays[name]).to(device) for name in ("arr_0", "arr_1"))
    images = images[..., 0].flatten(1) / 127.5 - 1

    def predict(x, t, y):  # E[x₁ | x], where x₁ is a real image of class y with noise of deviation 0.05
        t, y, flat = t.view(-1, 1), y.view(-1, 1), x.flatten(1)
        variance = (0.05 * t) ** 2 + (1 - t) ** 2
        scores = (t * flat @ images.T - t**2 / 2 * images.square().sum(1)) / variance
        image = scores.where((labels == y) | (y == 10), -torch.inf).softmax(1) @ images
        return (image + 0.05**2 * t / variance * (flat - t * image)).view_as(x)

    return dit_eval.FlowModel(predict, (1, 8, 8), prediction="x", num_classes=10)
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a plug-in that draws real digits."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "real_digits.py").write_text(PLUGIN)
    return folder


def draw(plugin: Path, out: Path, cfg: float = 1.5, rank: int = 0, ranks: int = 1) -> None:
    """What a process does, one of those that torchrun starts."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.chdir(plugin)
    settings = {"solver": "heun", "last_step": "euler", "steps": 25, "cfg": cfg, "device": "cpu"}
    generate(
        "real_digits:load",
        model_args={"data": str(DIGITS)},
        out=out,
        num=6 * BATCHES,
        batch_size=6,
        **settings,
    )


def start(*arguments: Any, **options: Any) -> ForkServerProcess:
    """Start `draw` in a process of its own."""
    process = PROCESSES.Process(target=draw, args=arguments, kwargs=options)
    process.start()
    return process


def finish(*processes: ForkServerProcess) -> None:
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


@pytest.fixture(scope="module")
def batch(plugin: Path) -> Path:
    """The batch of a single process that nothing interrupts."""
    finish(start(plugin, plugin / "b.npz"))
    return plugin / "b.npz"


@pytest.fixture(scope="module")
def result(batch: Path) -> Path:
    """The batch's result, with a report beside it."""
    out = batch.with_name("result.json")
    run = dit_eval(
        *("fid", batch, "digits", "--device", "cpu", "--json", out, "--report", out.with_suffix(".html"))
    )
    assert run.returncode == 0, run.stderr
    return out


def test_two_processes_draw_the_bytes_of_one(plugin: Path, batch: Path, tmp_path: Path) -> None:
    finish(*(start(plugin, tmp_path / "b.npz", rank=rank, ranks=2) for rank in range(2)))
    assert sha256(tmp_path / "b.npz") == sha256(batch)


def test_batch_survives_kills_at_random_times(plugin: Path, batch: Path, tmp_path: Path) -> None:
    out, shards = tmp_path / "b.npz", tmp_path / "b.partial"
    generator = random.Random(0)
    for _ in range(KILLS):
        before = len(list(shards.glob("0*.npz")))
        process = start(plugin, out)
        while process.is_alive() and len(list(shards.glob("0*.npz"))) == before:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.1))
        process.kill()
        process.join()
        assert before < len(list(shards.glob("0*.npz"))) < BATCHES
    finish(start(plugin, out))
    assert sha256(out) == sha256(batch)


def test_real_digits_are_measured_as_such(result: Path) -> None:
    metrics = json.loads(result.read_text("utf-8"))["metrics"]
    assert metrics["precision"] > 0.95
    assert metrics["recall"] > 0.9
    record = json.loads(result.with_name("b.json").read_text("utf-8"))
    assert record["plan"]["source"]["plugin"] == "real_digits:load"
    assert record["macs"] == 2 * 1797 * 64


def test_doctor_finds_no_problem(batch: Path) -> None:
    run = dit_eval("doctor", batch, "digits", "--device", "cpu")
    assert run.returncode == 0, run.stdout
    assert "no problems found" in run.stdout


def test_same_batch_passes_the_check_and_another_guidance_is_refused(
    plugin: Path, result: Path, tmp_path: Path
) -> None:
    assert dit_eval("check", result, "--baseline", result).returncode == 0
    finish(start(plugin, tmp_path / "b.npz", cfg=4.0))
    other = tmp_path / "other.json"
    assert dit_eval("fid", tmp_path / "b.npz", "digits", "--device", "cpu", "--json", other).returncode == 0
    run = dit_eval("check", other, "--baseline", result)
    assert run.returncode == 2
    assert "guidance scale" in run.stderr


@pytest.mark.parametrize("command", ["compare", "table2"])
def test_tables_name_the_plugin_and_its_settings(command: str, result: Path) -> None:
    run = dit_eval(command, result)
    assert run.returncode == 0, run.stderr
    assert "real_digits:load (cfg=1.50)" in run.stdout


def test_report_names_the_plugin_and_its_source(result: Path) -> None:
    page = result.with_suffix(".html").read_text("utf-8")
    assert "real_digits:load" in page
    assert sha256(result.with_name("real_digits.py"))[:12] in page
