"""Batches sampled from a flow have the same guarantees as those from a diffusion model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dit_eval.errors import UsageError
from dit_eval.generation.pipeline import generate
from dit_eval.io.assets import sha256
from tests.tiny import CONFIG, save_tiny

NUM = 6
FLOWS = {
    "ode": {"sampler": "ode", "steps": 3},
    "dopri5": {"sampler": "ode", "solver": "dopri5"},
    "sde": {"sampler": "sde", "steps": 4},
    "sde-heun": {"sampler": "sde", "steps": 4, "solver": "heun", "diffusion": "kl", "last_step": "tweedie"},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("weights"), steps=20)


@pytest.fixture
def draw(weights, tmp_path):
    def call(out: str, flow: str, **options):
        settings = {"ckpt": weights, "num": NUM, "cfg": 1.5, "batch_size": 4, "device": "cpu"} | FLOWS[flow]
        return generate(CONFIG, out=tmp_path / out, **(settings | options))

    return call


def images(path) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays["arr_0"].astype(int)


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_adaptive_solver_gives_image_i_the_same_bytes_in_any_batch(draw, batch_size):
    np.testing.assert_array_equal(
        images(draw("a.npz", "dopri5")), images(draw("b.npz", "dopri5", batch_size=batch_size))
    )


@pytest.mark.parametrize("flow", FLOWS)
def test_images_of_another_batch_size_are_within_one_grey_level(draw, flow):
    difference = images(draw("a.npz", flow)) - images(draw("b.npz", flow, batch_size=3))
    assert (np.abs(difference) <= 1).mean() >= 0.999


@pytest.mark.parametrize("flow", FLOWS)
def test_interrupted_flow_resumes_to_the_same_bytes(draw, flow):
    expected, reports = sha256(draw("whole.npz", flow)), []

    def interrupt(progress):
        reports.append(progress.done)
        if progress.done > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw("b.npz", flow, progress=interrupt)
    assert reports == sorted(reports)
    assert sha256(draw("b.npz", flow)) == expected


@pytest.mark.parametrize("flow", FLOWS)
def test_progress_of_a_flow_ends_with_all_images(draw, flow):
    reports = []
    draw("b.npz", flow, progress=reports.append)
    assert reports[-1].done == pytest.approx(NUM)


@pytest.mark.parametrize("flow", FLOWS)
def test_shards_of_a_flow_make_the_same_batch(draw, flow):
    expected = sha256(draw("whole.npz", flow))
    draw("b.npz", flow, shard=(2, 2))
    assert sha256(draw("b.npz", flow, shard=(1, 2))) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"path": "gvp"},
        {"prediction": "noise"},
        {"solver": "heun"},
        {"diffusion": "kl"},
        {"last_step": "tweedie"},
        {"last_step_size": 0.1},
    ],
    ids=str,
)
def test_every_option_of_a_flow_matters_and_is_part_of_the_plan(draw, change):
    before = images(draw("a.npz", "sde"))
    assert (before != images(draw("b.npz", "sde", **change))).any()
    with pytest.raises(UsageError, match=next(iter(change))):
        draw("a.npz", "sde", **change)


def test_record_holds_the_options_of_the_sampler(draw):
    def recorded(flow: str) -> dict:
        path = draw(f"{flow}.npz", flow, cfg_interval=(0.1, 1.0))
        return json.loads(path.with_suffix(".json").read_text("utf-8"))["plan"]

    options = {"sampler": "sde", "steps": "4", "path": "linear", "last_step_size": 0.04}
    assert options.items() <= recorded("sde").items()
    assert recorded("dopri5")["steps"] is None
