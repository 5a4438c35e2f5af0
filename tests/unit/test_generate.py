from __future__ import annotations

import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from dit_eval.cost.counter import count_flops
from dit_eval.dit import build_dit
from dit_eval.errors import CheckpointError, UsageError
from dit_eval.generation.pipeline import generate
from dit_eval.io.assets import sha256
from dit_eval.runtime.distributed import Rank, StridedShard
from tests.tiny import CLASSES, CONFIG, TINY_VAE, save_tiny

NUM = 14


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def draw(weights, tmp_path):
    """Draw a small batch into b.npz, or where `out` says."""

    def call(out: str = "b.npz", **options):
        settings = {"ckpt": weights, "num": NUM, "steps": 6, "cfg": 1.5, "batch_size": 4, "device": "cpu"}
        return generate(CONFIG, out=tmp_path / out, **(settings | options))

    return call


def images(path) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays["arr_0"].astype(int)


def test_batch_is_uint8_images_with_their_labels(draw):
    with np.load(draw()) as arrays:
        assert (arrays["arr_0"].shape, arrays["arr_0"].dtype) == ((NUM, 8, 8, 3), np.uint8)
        assert (arrays["arr_1"].shape, arrays["arr_1"].dtype) == ((NUM,), np.int64)


def test_batch_is_the_same_every_time(draw):
    assert sha256(draw("first.npz")) == sha256(draw("second.npz"))


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_images_of_another_batch_size_are_within_one_grey_level(draw, batch_size):
    reference, changed = images(draw("a.npz")), images(draw("b.npz", batch_size=batch_size))
    assert (np.abs(reference - changed) <= 1).mean() >= 0.999


def test_image_does_not_depend_on_how_many_there_are(draw):
    np.testing.assert_array_equal(images(draw("few.npz", num=6)), images(draw("many.npz"))[:6])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"cfg": 1.0},
        {"steps": 5},
        {"sampler": "ddim"},
        {"sampler": "ddim", "eta": 1.0},
        {"sampler": "ode"},
        {"sampler": "sde"},
        {"cfg_interval": (0.1, 1.0)},
        {"labels": "balanced"},
        {"labels": 3},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_every_setting_matters(draw, change):
    assert (images(draw("a.npz")) != images(draw("b.npz", **change))).any()


def test_bf16_is_near_fp32(draw):
    difference = np.abs(images(draw("a.npz")) - images(draw("b.npz", precision="bf16")))
    assert np.median(difference) <= 3


@pytest.mark.parametrize("interrupt_at", [1, 8, 13])
def test_interrupted_batch_resumes_to_the_same_bytes(draw, interrupt_at):
    expected = sha256(draw("whole.npz"))
    steps = 0

    def interrupt(_):
        nonlocal steps
        steps += 1
        if steps == interrupt_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(progress=interrupt)
    assert sha256(draw()) == expected


def test_latents_are_decoded_by_the_vae(draw, tmp_path):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(**TINY_VAE).save_pretrained(tmp_path / "vae")
    weights = save_tiny(tmp_path, in_channels=4, steps=5)
    path = draw(ckpt=weights, vae=tmp_path / "vae")
    digest = sha256(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert images(path).shape == (NUM, 16, 16, 3)
    assert json.loads(path.with_suffix(".json").read_text("utf-8"))["plan"]["decoder"] == f"vae {digest}"


def test_existing_shards_are_not_sampled_again(draw, tmp_path):
    reports = []

    def stop(progress):
        reports.append(progress)
        if progress.done > 8.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(progress=stop)
    reports.clear()
    draw(progress=reports.append)
    assert reports[-1].done == pytest.approx(NUM - 8)
    assert reports[-1].total == NUM - 8


def test_a_vae_for_a_model_of_pixels_is_refused(draw):
    with pytest.raises(UsageError, match="leave out --vae"):
        draw(vae="ema")


def test_progress_counts_the_operations_of_guidance(draw):
    reports = []
    draw(progress=reports.append, batch_size=7)
    assert reports[-1].done == pytest.approx(NUM)
    flops = count_flops(CONFIG, input_size=8, in_channels=3, num_classes=CLASSES).flops
    assert reports[-1].flops == NUM * 6 * 2 * flops


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_recorded_cost_is_that_of_the_model_that_ran(draw, tmp_path, learn_sigma):
    options = {"input_size": 6, "in_channels": 3, "num_classes": CLASSES, "learn_sigma": learn_sigma}
    save_file(build_dit(CONFIG, **options).state_dict(), tmp_path / "own.safetensors")
    path = draw(ckpt=tmp_path / "own.safetensors", sampler="ode", num=2)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build_dit(CONFIG, **options).to("meta")
        network(torch.empty(1, 3, 6, 6), torch.empty(1), torch.empty(1, dtype=torch.int64))
    macs = json.loads(path.with_suffix(".json").read_text("utf-8"))["macs"]
    assert macs == counter.get_total_flops() // 2


def test_interruption_says_how_many_images_are_sampled(draw, tmp_path):
    def stop(progress):
        if progress.done > 8.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interruption:
        draw(progress=stop)
    assert interruption.value.__notes__ == [f"8 of {NUM} images of {tmp_path / 'b.npz'} are sampled."]


@pytest.mark.parametrize("fresh", [True, False])
def test_json_of_another_program_is_kept(draw, tmp_path, fresh):
    (tmp_path / "b.json").write_text('{"mine": true}')
    with pytest.raises(UsageError, match=r"b\.json exists and is not the record of a batch"):
        draw(fresh=fresh)
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
    assert (tmp_path / "b.json").read_text() == '{"mine": true}'


def test_finished_batch_is_left_alone(draw):
    first = draw()
    before = first.stat().st_mtime_ns
    draw(progress=lambda _: pytest.fail("drew again"))
    assert first.stat().st_mtime_ns == before


def test_fresh_starts_over(draw):
    draw(seed=1)
    with pytest.raises(UsageError, match="seed"):
        draw()
    assert sha256(draw(fresh=True)) == sha256(draw("other.npz"))


def test_shards_of_a_job_array_make_the_same_batch(draw):
    expected = sha256(draw("whole.npz"))
    paths = [draw(shard=(k, 3)) for k in (3, 1)]
    assert not paths[0].exists()
    assert sha256(draw(shard=(2, 3))) == expected


@pytest.mark.parametrize("worlds", [(2, 3), (3, 1), (1, 2)])
def test_ranks_of_one_run_may_leave_work_to_those_of_another(draw, monkeypatch, worlds):
    expected = sha256(draw("whole.npz"))
    first, second = worlds
    monkeypatch.setenv("WORLD_SIZE", str(first))
    monkeypatch.setenv("RANK", str(first - 1))
    draw()
    monkeypatch.setenv("WORLD_SIZE", str(second))
    paths = []
    for rank in range(second):
        monkeypatch.setenv("RANK", str(rank))
        paths.append(draw())
    assert sha256(paths[-1]) == expected


def rank(monkeypatch, index: int, count: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setenv("RANK", str(index))


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_batches_that_a_dead_rank_has_left_are_finished_by_the_others(draw, monkeypatch, dead):
    expected = sha256(draw("whole.npz", batch_size=1))

    def die(progress):
        if progress.done > 2.5:
            raise KeyboardInterrupt

    rank(monkeypatch, dead, 3)
    with pytest.raises(KeyboardInterrupt):
        draw(batch_size=1, progress=die)
    alive = (dead + 1) % 3
    rank(monkeypatch, alive, 3)
    reports = []
    path = draw(batch_size=1, progress=reports.append)
    assert sha256(path) == expected
    assert reports[0].total == len(range(alive, NUM, 3))
    assert reports[-1].done == reports[-1].total == NUM - 2
    assert all(report.done <= report.total for report in reports)


def test_a_task_of_a_job_array_finishes_what_another_one_has_begun(draw):
    expected = sha256(draw("whole.npz", batch_size=1))

    def die(progress):
        if progress.done > 1.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(batch_size=1, shard=(2, 3), progress=die)
    assert not draw(batch_size=1, shard=(1, 3)).exists()  # the third has not begun
    reports = []
    assert sha256(draw(batch_size=1, shard=(3, 3), progress=reports.append)) == expected
    assert reports[-1].total == len(range(2, NUM, 3))


def test_a_batch_that_another_process_finishes_meanwhile_is_given_up(draw, tmp_path):
    expected = sha256(draw("whole.npz"))
    draw(shard=(1, 2))  # batches 0 and 2 of 4
    reports, shard = [], tmp_path / "b.partial" / "00000000.npz"
    aside = shard.rename(tmp_path / "aside.npz")

    def restore(progress):
        reports.append(progress)
        if progress.done > 2 and aside.exists():
            aside.rename(shard)

    assert sha256(draw(progress=restore)) == expected
    assert reports[-1].done == reports[-1].total == NUM - 8


def test_ranks_within_shards_share_the_batches(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    taken = []
    for k in (1, 2, 3):
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            worker = StridedShard.of(Rank.from_environment(), (k, 3))
            taken += [batch for batch in range(20) if worker.takes(batch)]
    assert sorted(taken) == list(range(20))


def test_record_holds_plan_environment_and_checksum(draw):
    path = draw(cfg_interval=(0.1, 1.0))
    record = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert record["plan"]["cfg_interval"] == [0.1, 1.0]
    assert record["environment"]["torch"] == torch.__version__
    assert record["sha256"] == sha256(path)


@pytest.fixture
def ticking(monkeypatch):
    """A clock that is read once a batch and shows a second more each time."""
    seconds = itertools.count()
    monkeypatch.setattr(sys.modules["dit_eval.generation.decode"], "monotonic", lambda: next(seconds))


def speed_of(path) -> tuple[int, float]:
    speed = json.loads(path.with_suffix(".json").read_text("utf-8"))["speed"]
    return speed["images"], speed["seconds"]


@pytest.mark.usefixtures("ticking")
def test_speed_is_recorded_without_the_batch_that_warms_up_and_beside_the_plan(draw):
    path = draw()  # of 4, 4, 4 and 2 images, each drawn as 4
    assert speed_of(path) == (12, 3.0)
    record = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert record["speed"]["device"] == record["environment"]["device"]
    assert not {"speed", "seconds"} & record["plan"].keys()


@pytest.mark.usefixtures("ticking")
def test_speed_of_a_resumed_batch_leaves_out_the_pause_and_both_warm_ups(draw):
    def stop(progress):
        if progress.done > 8.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(progress=stop)
    assert speed_of(draw()) == (8, 2.0)


@pytest.mark.usefixtures("ticking")
def test_speed_of_several_processes_is_that_of_one(draw):
    draw(shard=(1, 2))
    assert speed_of(draw(shard=(2, 2))) == (8, 2.0)


def test_speed_of_a_single_batch_is_unknown(draw):
    path = draw(batch_size=NUM)
    assert json.loads(path.with_suffix(".json").read_text("utf-8"))["speed"] is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"out": "b.json"}, "ends in .npz"),
        ({"sampler": "euler"}, "not one of ddpm, ddim"),
        ({"precision": "fp8"}, "not one of fp32"),
        ({"precision": "tf32"}, "CUDA"),
        ({"eta": 0.5}, "option of ddim"),
        ({"solver": "heun"}, "option of ode and sde"),
        ({"sampler": "ode", "solver": "heun2"}, "not one of euler"),
        ({"sampler": "ode", "diffusion": "kl"}, "option of sde"),
        ({"sampler": "ode", "solver": "dopri5"}, "chooses its own steps"),
        ({"sampler": "sde", "steps": "ddim50"}, "not a valid number of steps for a flow"),
        ({"cfg_interval": (1e4, 1e5)}, "no step has a noise level"),
        ({"labels": "10"}, "class 10 does not exist"),
        ({"steps": 2000}, "choose 1 to 1000"),
        ({"image_size": 256}, "images of 8 pixels, not 256"),
        ({"shard": (4, 3)}, "count from 1/3 to 3/3"),
        ({"num": 0}, "num is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"steps": 0}, "0 steps"),
        ({"steps": 0, "sampler": "sde"}, "'0' is not a valid number of steps"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "mps"}, "device 'mps' is not supported"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not available"),
        ({"cfg": math.nan}, "cfg is nan"),
        ({"cfg_interval": (math.nan, 1.0)}, "--cfg-interval is "),
        ({"cfg": -1}, "--cfg is -1; expected a number of at least 0"),
        ({"cfg": "1.5"}, "--cfg is '1.5'; expected a number"),
        ({"sampler": "ddim", "eta": 1.5}, "--eta is 1.5; expected a number from 0 to 1"),
        ({"num": True}, "num is True"),
        ({"cfg_interval": (5, 0.3)}, "LO ≤ HI"),
        ({"cfg_interval": 5.0}, "--cfg-interval is 5.0; expected two noise levels"),
        ({"cfg_times": (0, 0.7)}, r"--cfg-times is \(0, 0.7\); expected two increasing numbers as text"),
        ({"into": "b"}, "into is of type str; expected a dit_eval.Evaluator"),
        ({"shard": (1, 3), "fresh": True}, "--fresh would delete the work of the other shards"),
    ],
    ids=str,
)
def test_contradiction_is_refused_and_leaves_nothing(draw, tmp_path, options, complaint):
    with pytest.raises(UsageError, match=complaint):
        draw(**options)
    assert list(tmp_path.glob("b*")) == []


def test_network_whose_output_is_not_finite_is_refused(draw, weights, tmp_path):
    tensors = load_file(weights)
    tensors["final_layer.linear.bias"][:] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="4 of the 4 samples of a batch are not finite"):
        draw(ckpt=tmp_path / "nan.safetensors")
