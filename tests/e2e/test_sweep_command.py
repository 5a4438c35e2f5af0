"""`dit-eval sweep` on the bundled digits: its output, which kills and numbers of processes do not change."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dit_eval as package
from dit_eval.features.extractor import FeatureExtractor
from dit_eval.features.network import Activations
from dit_eval.io.assets import sha256
from tests.command import assert_one_sentence, dit_eval

ROOT = Path(__file__).resolve().parents[2]
SEARCH = [
    *("sweep", "--model", "digits-sit", "--sampler", "ode", "--solver", "euler", "--against", "digits"),
    *("--vary", "cfg=1.0,2.0", "--vary", "steps=1:3:2", "--num-samples", "128", "--batch-size", "32"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search by one uninterrupted process, with what it printed in out.txt."""
    folder = tmp_path_factory.mktemp("sweep")
    run = dit_eval(*SEARCH, "--out", folder / "s")
    assert run.returncode == 0, run.stderr
    (folder / "s" / "out.txt").write_text(run.stdout, "utf-8")
    return folder / "s"


def outcome(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sweep.json").read_text("utf-8"))


def rounded(value: Any) -> Any:
    """JSON values with eight digits: sums over other numbers of processes are rounded otherwise."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in (folder / "samples").glob("*.npz")}


def start(out: Path, ranks: int) -> list[subprocess.Popen[bytes]]:
    """The processes of a search, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if ranks > 1:
        environment |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "dit_eval", *SEARCH, "--out", str(out)],
            cwd=ROOT,
            env=environment | ({"RANK": str(rank)} if ranks > 1 else {}),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(ranks)
    ]


def assert_same(out: Path, folder: Path) -> None:
    assert rounded(outcome(out)) == rounded(outcome(folder))
    assert digests(out) == digests(folder)


def count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def test_the_table_names_the_winner_and_the_fresh_value_and_the_files_hold_them(folder: Path) -> None:
    printed = (folder / "out.txt").read_text("utf-8")
    found = outcome(folder)["outcome"]
    winner, fresh = found["candidates"][0], found["fresh"]
    first_row = next(line for line in printed.splitlines() if line.endswith("winner"))
    assert f"{winner['value']:.2f}" in first_row
    assert f"{winner['gflops_per_image']:.3g}" in first_row
    assert f"To report: FID {fresh['value']:.2f}" in printed
    assert (fresh["n"], fresh["seed"]) == (128, 1)
    assert " ".join(found["paragraph"].split()) in " ".join(printed.split())
    assert found["images"] == sum(candidate["n"] for candidate in found["candidates"])
    assert found["images_of_the_grid"] == 4 * 128
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_all_candidates_of_a_round_have_the_same_labels(folder: Path) -> None:
    results = [
        json.loads(path.read_text("utf-8")) for path in sorted((folder / "results").glob("0*-n32.json"))
    ]
    assert len(results) == 4
    assert {(result["samples"]["plan"]["seed"], result["samples"]["plan"]["num"]) for result in results} == {
        (0, 32)
    }
    for race in outcome(folder)["races"]:
        for found in race["rounds"]:
            assert all(compared["paired"] for compared in found["compared_with_best"].values())


def test_an_extended_candidate_is_the_batch_that_sample_draws(folder: Path, tmp_path: Path) -> None:
    winner = next((folder / "samples").glob("fresh-*.npz")).name.removeprefix("fresh-")
    values = outcome(folder)["outcome"]["candidates"][0]
    batch = package.generate(
        "digits-sit",
        sampler="ode",
        solver="euler",
        num=values["n"],
        batch_size=32,
        out=tmp_path / "b.npz",
        **values["values"],
    )
    assert sha256(batch) == digests(folder)[winner]


def test_python_gives_the_same_outcome_without_sampling_again(folder: Path) -> None:
    before = digests(folder)
    found = package.sweep(
        "digits-sit",
        against="digits",
        vary={"cfg": [1.0, 2.0], "steps": ["1", "3"]},
        num=128,
        batch_size=32,
        out=folder,
        sampler="ode",
        solver="euler",
        rounding="dit",
        compile=False,
        model_args={},
    )
    assert found is not None
    assert json.loads(json.dumps(found.to_json())) == outcome(folder)
    assert digests(folder) == before


def test_a_reference_that_does_not_exist_is_one_sentence_before_anything_is_sampled(tmp_path: Path) -> None:
    run = dit_eval("sweep", "--against", tmp_path / "ref.npz", "--vary", "cfg=1,2", "--out", tmp_path / "s")
    assert_one_sentence(run)
    assert not (tmp_path / "s").exists()


def test_a_setting_that_does_not_fit_is_one_sentence_that_names_the_candidate(tmp_path: Path) -> None:
    run = dit_eval(
        *("sweep", "--model", "digits", "--against", "digits", "--vary", "sampler=ddpm,ode", "--steps", "1"),
        *("--num-samples", "32", "--out", tmp_path / "s"),
    )
    assert_one_sentence(run)
    assert "sampler=ode: sampler ode does not fit" in run.stderr


def test_every_image_passes_the_feature_network_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, sizes = FeatureExtractor._forward, []

    def count(extractor: FeatureExtractor, images: torch.Tensor) -> Activations:
        sizes.append(len(images))
        return forward(extractor, images)

    monkeypatch.setattr(FeatureExtractor, "_forward", count)
    found = package.sweep(
        "digits-sit",
        against="digits",
        vary={"cfg": [1.5, 1.6]},
        num=512,
        batch_size=64,
        out=tmp_path / "s",
        metric="precision",
        sampler="ode",
        solver="euler",
        steps=2,
        seed=5,
    )
    assert found is not None
    assert [race.n for race in found.races[0].rounds][-1] == 512  # the candidates are nearly the same
    assert sum(sizes) - 1797 == found.images + 512  # the reference, the search and the fresh images
    assert found.images == 2 * 512
    for candidate in found.candidates:
        plain = package.evaluate(
            tmp_path / "s" / "samples" / f"{Path(candidate.result.samples['path']).name}",
            "digits",
            metrics=["precision"],
            cache=False,
        )
        assert plain is not None
        assert plain.metrics == candidate.result.metrics


GREY = """
import dit_eval


def load(level, name):
    assert name == "grey" and isinstance(level, float)
    target = lambda x, t, y: (level - x) / (1 - t).view(-1, 1, 1, 1)
    return dit_eval.FlowModel(target, (3, 8, 8), num_classes=10)
"""


def test_arguments_of_a_plugin_vary_and_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grey_levels.py").write_text(GREY)
    monkeypatch.chdir(tmp_path)
    run = dit_eval(
        *(
            "sweep",
            "--model",
            "grey_levels:load",
            "--model-arg",
            "name=grey",
            "--vary",
            "model.level=-0.5,0.5",
        ),
        *("--against", "digits", "--solver", "euler", "--steps", "1", "--num-samples", "32"),
        *("--batch-size", "16", "--out", "s"),
    )
    assert run.returncode == 0, run.stderr
    candidates = outcome(tmp_path / "s")["outcome"]["candidates"]
    assert {candidate["values"]["model.level"] for candidate in candidates} == {-0.5, 0.5}
    for file, level in (("000-model.level-0.5.npz", -0.5), ("001-model.level-0.5.npz", 0.5)):
        images = np.load(tmp_path / "s" / "samples" / file)["arr_0"]
        assert (images == int(127.5 * level + 128)).all()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.simulation)])
def test_kills_and_other_numbers_of_processes_change_nothing(
    folder: Path, tmp_path: Path, kills: int
) -> None:
    out, generator, killed = tmp_path / "s", random.Random(kills), 0
    while killed < kills:
        ranks = start(out, generator.choice([1, 2]))
        enough = count_files(out) + generator.randint(1, 6)
        while ranks[0].poll() is None and count_files(out) < enough:
            time.sleep(0.005)
        running = [rank for rank in ranks if rank.poll() is None]
        killed += bool(running)
        for rank in running:
            os.killpg(rank.pid, signal.SIGKILL)
            rank.wait()
        if not running:  # it has finished before
            assert_same(out, folder)
            shutil.rmtree(out)
    assert [rank.wait() for rank in start(out, 2)] == [0, 0]
    assert_same(out, folder)
