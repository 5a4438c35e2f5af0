"""`dit-eval sample` from the command line: S/8 with random weights and 8×8 pixels, and the bundled digits."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dit_eval.dit import build_dit
from dit_eval.io.assets import sha256
from tests.command import assert_one_sentence, dit_eval

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "s8.safetensors"
    save_file(build_dit("S/8", input_size=8, in_channels=3).state_dict(), path)
    return path


@pytest.fixture
def command(weights, tmp_path):
    """The arguments that sample 24 images into an empty folder."""

    def arguments(*more: object, out: Path = tmp_path / "b.npz") -> list[object]:
        model = ("--model", "S/8", "--ckpt", weights, "--num-samples", 24, "--batch-size", 4, "--steps", 4)
        return ["sample", *model, "--out", out, *more]

    return arguments


@pytest.fixture
def started(command):
    """The same command, started in a process of its own."""

    def start(*more: object, **out: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dit_eval", *map(str, command(*more, **out))],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a shell lets what it starts in the background ignore interrupts
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def test_path_of_the_batch_is_printed_and_its_grid_written(command, tmp_path):
    code, output, errors = dit_eval(*command("--cfg", 1.5, "--grid", tmp_path / "grid.png"))
    assert (code, output) == (0, f"{tmp_path / 'b.npz'}\n"), errors
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (5 * 64, 5 * (64 + 14))


def test_sit_is_sampled_by_sde(command, tmp_path):
    code, _, errors = dit_eval(*command("--model", "SiT-S/8", "--cfg", 1.5, "--diffusion", "kl"))
    assert code == 0, errors
    plan = json.loads((tmp_path / "b.json").read_text("utf-8"))["plan"]
    assert (plan["model"], plan["sampler"], plan["diffusion"]) == ("SiT-S/8", "sde", "kl")


def test_npz_can_be_read_by_evaluators(command, tmp_path):
    assert dit_eval(*command()).returncode == 0
    with zipfile.ZipFile(tmp_path / "b.npz") as archive:
        info = archive.getinfo("arr_0.npy")
        assert info.compress_type == zipfile.ZIP_STORED
        assert info.date_time == (1980, 1, 1, 0, 0, 0)
        with archive.open(info) as stream:  # in chunks, as ADM's evaluator does
            assert np.lib.format.read_magic(stream) == (1, 0)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            assert (shape, fortran, dtype) == ((24, 8, 8, 3), False, np.uint8)
            chunks = [stream.read(6 * 8 * 8 * 3) for _ in range(4)]
    with np.load(tmp_path / "b.npz") as arrays:
        assert b"".join(chunks) == arrays["arr_0"].tobytes()


def test_interrupt_exits_130_and_the_same_command_resumes(started, tmp_path):
    assert finish(started(out=tmp_path / "whole.npz"))[0] == 0
    folder = tmp_path / "b.partial"
    process = started("--steps", 4)
    while process.poll() is None and not list(folder.glob("0*.npz")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    code, output, errors = finish(process)
    assert (code, output) == (130, "")
    progress = re.search(
        r"Interrupted\. (\d+) of 24 images of \S*b\.npz are sampled\. Run the same command", errors
    )
    assert progress is not None, errors
    assert int(progress[1]) == 4 * len(list(folder.glob("0*.npz"))) > 0
    assert "Traceback" not in errors
    assert not (tmp_path / "b.npz").exists()
    assert finish(started())[0] == 0
    assert sha256(tmp_path / "b.npz") == sha256(tmp_path / "whole.npz")


def test_part_of_a_job_array_reports_that_others_have_not_finished(command):
    code, output, errors = dit_eval(*command("--shard", "1/2"))
    assert (code, output) == (0, "")
    assert "other processes" in errors


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "S/9"], "unknown model 'S/9'"),
        (["--model", "S/4"], "does not fit the model"),
        (["--ckpt", "nowhere.pt"], "nowhere.pt"),
        (["--steps", "ddim300"], "ddim250"),
        (["--sampler", "ode"], "sampler ode does not fit DiT-S/8, which is a diffusion model"),
        (
            ["--model", "SiT-S/8", "--sampler", "ddim"],
            "sampler ddim does not fit SiT-S/8, which is a flow model",
        ),
        (
            ["--model", "SiT-S/8", "--sampler", "ode", "--solver", "dopri5"],
            "dopri5 chooses its own steps; leave out --steps",
        ),
        (["--diffusion", "kl"], "--diffusion is an option of sde"),
        (["--labels", "1000"], "class 1000 does not exist"),
        (["--shard", "2"], "not of the form K/N"),
        (["--cfg", "-1"], "--cfg"),
        (["--vae", "ema"], "leave out --vae"),
        (["--cfg-interval", "0", "1", "--cfg-times", "[0, 1]"], "--cfg-interval and --cfg-times both"),
        (["--cfg", "nan"], "--cfg is nan; expected finite numbers"),
        (["--cfg", "inf"], "--cfg is inf; expected finite numbers"),
        (["--cfg-interval", "0.1", "nan"], "--cfg-interval is (0.1, nan); expected finite numbers"),
        (["--sampler", "ddim", "--eta", "nan"], "--eta is nan; expected finite numbers"),
        (["--ckpt", "/etc/passwd"], "a file of unknown format. Pass a file of weights"),
    ],
    ids=str,
)
def test_wrong_use_is_one_sentence_and_exit_2(command, tmp_path, arguments, complaint):
    ran = dit_eval(*command(*arguments))
    assert_one_sentence(ran)
    assert complaint in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_torchrun_samples_the_same_bytes_as_one_process(tmp_path):
    """`--num`, the former name of --num-samples, is taken by torchrun for its own --numa-binding."""
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2", "-m", "dit_eval"]
    digits = ["sample", "--model", "digits", "--num-samples", "20", "--batch-size", "4", "--steps", "5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PET_STANDALONE": "1"}  # any free port
    subprocess.run(
        [*torchrun, *digits, "--out", str(tmp_path / "a.npz")], cwd=ROOT, env=environment, check=True
    )
    former = [argument.replace("--num-samples", "--num") for argument in digits]
    assert dit_eval(*former, "--out", tmp_path / "b.npz").returncode == 0
    assert sha256(tmp_path / "a.npz") == sha256(tmp_path / "b.npz")
    assert json.loads((tmp_path / "a.json").read_text("utf-8"))["environment"]["processes"] == 2


def test_help_has_groups_and_hides_the_former_name_of_the_number_of_samples():
    lines = dit_eval("sample", "--help").stdout.splitlines()
    for title in ("Model", "Sampling", "Guidance", "Output", "Performance", "Flows"):
        assert f"{title}:" in lines
    assert any(line.startswith("  --num-samples N") for line in lines)
    assert not any(line.startswith("  --num ") for line in lines)
    assert max(map(len, lines)) <= 80


def test_failed_write_keeps_the_shards_and_the_same_command_resumes(started, tmp_path):
    """Files may not grow beyond 100 bytes, which the kernel refuses as it refuses to fill a disk."""
    num = ["--num-samples", 100]
    assert finish(started(*num, out=tmp_path / "whole.npz"))[0] == 0
    process = started(*num)
    folder = tmp_path / "b.partial"
    while process.poll() is None and not list(folder.glob("0*.npz")):
        time.sleep(0.005)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, 100))
    code, _, errors = finish(process)
    assert code == 2
    assert "File too large" in errors
    assert "run the same command again" in errors
    assert list(folder.glob("0*.npz"))
    assert not (tmp_path / "b.npz").exists()
    assert finish(started(*num))[0] == 0
    assert sha256(tmp_path / "b.npz") == sha256(tmp_path / "whole.npz")
