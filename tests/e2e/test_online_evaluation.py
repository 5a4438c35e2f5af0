"""Evaluation in training programs: the training is not touched, ranks add up, images need no file."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import dit_eval
from tests.command import dit_eval as run_command

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "training"
MODEL = {"num": 50, "steps": 2, "device": "cpu", "batch_size": 16}


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(folder: Path, *arguments: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    launcher = (
        ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"] if ranks > 1 else []
    )
    command = [
        sys.executable,
        *launcher,
        str(EXAMPLES / "plain_loop.py"),
        "--folder",
        str(folder),
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def test_a_training_has_the_same_losses_and_weights_with_and_without_evaluation(tmp_path: Path) -> None:
    shown = train(tmp_path / "with", "--every", "100", "--images", "100").stdout
    assert [line.split(":")[0] for line in shown.splitlines()] == ["step 100", "step 200", "step 300"]
    train(tmp_path / "without", "--every", "0")
    runs = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("with", "without")]
    assert torch.equal(runs[0]["losses"], runs[1]["losses"])
    assert len(runs[0]["losses"]) == 300
    for name, weight in runs[0]["weights"].items():
        assert torch.equal(weight, runs[1]["weights"][name]), name
    assert list((tmp_path / "with").glob("events.*"))


def test_two_ranks_of_a_training_evaluate_together(tmp_path: Path) -> None:
    shown = train(tmp_path, "--steps", "2", "--every", "2", "--images", "100", ranks=2).stdout
    assert shown.startswith("step 2: loss ")


RANK_PROGRAM = """
import json, sys
import numpy as np, torch.distributed as dist
import dit_eval
dist.init_process_group("gloo")
rank = dist.get_rank()
images = np.load(sys.argv[1])["arr_0"]
with dit_eval.Evaluator("digits", device="cpu", batch_size=16) as evaluator:
    evaluator.update(images[rank::2])
    arrays = evaluator.compute()
    dit_eval.generate("digits", into=evaluator, num=50, steps=2, device="cpu", batch_size=16)
    into = evaluator.compute()
with open(f"{rank}.json", "w") as file:
    json.dump([rank, dict(arrays.metrics), dict(into.metrics), into.name], file)
"""


def test_two_processes_give_the_numbers_of_one_to_1e_9(tmp_path: Path, own_cache: Path) -> None:
    import json

    images = np.random.default_rng(0).integers(0, 256, (61, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", arr_0=images)
    (tmp_path / "program.py").write_text(RANK_PROGRAM, "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += [str(tmp_path / "program.py"), str(tmp_path / "images.npz")]
    subprocess.run(command, check=True, cwd=tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text("utf-8")) for rank in (0, 1)]
    assert [rank for rank, *_ in found] == [0, 1]
    assert found[0][1:] == found[1][1:]  # every rank has the result
    alone = dit_eval.evaluate(images, "digits", device="cpu", batch_size=16)
    with dit_eval.Evaluator("digits", device="cpu", batch_size=16) as evaluator:
        dit_eval.generate("digits", into=evaluator, **MODEL)
        into = evaluator.compute()
    assert alone is not None
    assert found[0][1] == pytest.approx(dict(alone.metrics), rel=1e-9)
    assert found[0][2] == pytest.approx(dict(into.metrics), rel=1e-9)
    assert found[0][3] == into.name == "digits (cfg=1.50)"


def test_sampling_into_an_evaluator_gives_the_numbers_of_the_file_exactly(tmp_path: Path) -> None:
    file = dit_eval.generate("digits", out=tmp_path / "batch.npz", **MODEL)
    from_file = dit_eval.evaluate(file, "digits", device="cpu", batch_size=16)
    assert from_file is not None
    with dit_eval.Evaluator("digits", device="cpu", batch_size=16) as evaluator:
        assert dit_eval.generate("digits", into=evaluator, **MODEL) is None
        result = evaluator.compute()
    assert result.metrics == from_file.metrics
    assert result.intervals == from_file.intervals
    assert result.classes == from_file.classes
    assert result.samples["digest"] == from_file.samples["digest"]
    assert result.fingerprint == from_file.fingerprint
    assert result.samples["plan"] == from_file.samples["plan"]


def test_fid_against_several_references_is_one_table_and_a_file_for_each(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "batch.npz", images)
    np.savez(tmp_path / "noise.npz", images // 2)
    run_command(
        "ref", "make", tmp_path / "noise.npz", "--out", tmp_path / "noise-ref.npz", "--protocol", "digits"
    )
    out = tmp_path / "result.json"
    shown = run_command("fid", tmp_path / "batch.npz", "digits", tmp_path / "noise-ref.npz", "--json", out)
    assert "digits" in shown.stdout
    assert "digits minus noise-ref.npz: FID" in " ".join(shown.stdout.split())
    for name, reference in (("digits", "digits"), ("noise-ref", tmp_path / "noise-ref.npz")):
        alone = tmp_path / f"{name}-alone.json"
        run_command("fid", tmp_path / "batch.npz", reference, "--json", alone)
        results = [
            dit_eval.Result.from_json(path.read_text("utf-8"))
            for path in (alone, tmp_path / f"result.{name}.json")
        ]
        assert results[0].metrics == results[1].metrics
    assert not out.exists()


class Net(torch.nn.Module):
    """A velocity field with a parameter and a mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(-0.5))
        self.dropout = torch.nn.Dropout()

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.scale * x)


def test_a_live_module_is_evaluated_in_evaluation_mode_and_gets_its_modes_back() -> None:
    net = Net()
    net.dropout.eval()
    model = dit_eval.FlowModel(net, shape=(3, 8, 8), num_classes=10, value_range=(-4, 4))
    with dit_eval.Evaluator("digits", device="cpu", metrics=["fid"]) as evaluator:
        fids = []
        for training in (False, True):
            net.dropout.train(training)
            dit_eval.generate(model, into=evaluator, num=20, steps=2, device="cpu")
            fids.append(evaluator.compute().metrics["fid"])
            assert net.training
            assert net.dropout.training == training
    assert fids[0] == fids[1]


@pytest.mark.filterwarnings("ignore")  # those of Lightning about itself
def test_the_lightning_callback_logs_the_numbers(tmp_path: Path) -> None:
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def eval_model(self) -> dit_eval.FlowModel:
            return dit_eval.FlowModel(self.net, shape=(3, 8, 8), num_classes=10)

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            x = batch[0]
            return self.net(x, torch.zeros(len(x)), torch.zeros(len(x))).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = example("lightning_callback").OnlineEvaluation("digits", every=2, num=20, steps=2)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(8, 3, 8, 8)), batch_size=2)
    trainer = lightning.Trainer(
        max_steps=4,
        accelerator="cpu",
        callbacks=[callback],
        logger=CSVLogger(tmp_path),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Module(), data)
    (metrics,) = tmp_path.rglob("metrics.csv")
    header, *rows = metrics.read_text("utf-8").splitlines()
    assert {"eval/fid", "eval/fid_half_width", "step"} <= {*header.split(",")}
    assert len(rows) == 2


def test_the_example_for_wandb_runs_offline(tmp_path: Path) -> None:
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}
    command = [sys.executable, str(EXAMPLES / "wandb_images.py")]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True)
    assert list(tmp_path.rglob("run-*.wandb"))


SEVERAL = """
import torch.distributed as dist, numpy as np
import dit_eval
images = np.load("images.npz")["arr_0"]
first = dit_eval.Evaluator("digits", device="cpu")
second = dit_eval.Evaluator("digits", device="cpu")
for evaluator in (first, second):
    evaluator.update(images)
fids = [first.compute().metrics["fid"]]
first.close()
fids.append(second.compute().metrics["fid"])
second.close()
second = dit_eval.Evaluator("digits", device="cpu")
for _ in range(2):
    result = dit_eval.evaluate("images.npz", "digits", device="cpu")
second.close()
assert not dist.is_initialized()
dist.init_process_group("gloo")
try:
    first.compute()
except dit_eval.errors.UsageError as error:
    fids.append(str(error))
print(fids)
"""


def test_evaluators_and_evaluations_follow_one_another_in_one_job(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", np.zeros((20, 8, 8, 3), np.uint8))
    (tmp_path / "program.py").write_text(SEVERAL, "utf-8")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        "program.py",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("closed") == 2


FAILING_PROGRAM = """
import json
import torch, torch.distributed as dist
import dit_eval
from dit_eval.evaluation.feature_stats import FeatureStats
dist.init_process_group("gloo")
rank = dist.get_rank()
factor = float("nan") if rank == 1 else 1.0
diverged = dit_eval.FlowModel(lambda x, t, y: factor * x, (3, 8, 8), num_classes=10)
errors = []

def attempt(call):
    try:
        call()
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}")

def full(*_, **__):
    raise OSError("no space left")

with dit_eval.Evaluator("digits", device="cpu", batch_size=16) as evaluator:
    images = torch.zeros(32, 8, 8, 3, dtype=torch.uint8)
    attempt(lambda: dit_eval.generate(diverged, into=evaluator, num=64, steps=2, device="cpu", batch_size=16))
    for name, failing in (("finish", 1), ("copy", 0), ("append", 0)):
        evaluator.reset()
        evaluator.update(images)
        kept = getattr(FeatureStats, name)
        if rank == failing:
            setattr(FeatureStats, name, full)
        attempt(evaluator.compute)
        setattr(FeatureStats, name, kept)
    evaluator.reset()
    evaluator.update(images)
    n = evaluator.compute().samples["n"]
with open(f"{rank}.json", "w") as file:
    json.dump([errors, n], file)
"""


def test_a_failure_of_one_rank_is_an_error_on_both_and_none_waits_for_the_other(tmp_path: Path) -> None:
    import json

    (tmp_path / "program.py").write_text(FAILING_PROGRAM, "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    subprocess.run([*command, str(tmp_path / "program.py")], check=True, cwd=tmp_path, timeout=120)
    (first, n), (second, _) = (json.loads((tmp_path / f"{rank}.json").read_text("utf-8")) for rank in (0, 1))
    other = "RankError: another rank has failed; its own error says why."
    full = "OSError: no space left"
    assert first == [other, other, full, full]
    assert second[0].startswith("CheckpointError: 16 of the 16 samples of a batch are not finite")
    assert second[1:] == [full, other, other]
    assert n == 64
