"""Sampling on a CUDA device; tests/unit/test_cuda_tier.py runs the same functions on a CPU.

None of this has run on a GPU yet. Tolerances that are wider than a CPU's are therefore estimated, from the
rounding of the format: TF32 keeps 10 bits of a factor, bfloat16 7.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit_eval.diagnostics.recorded import dit_weights
from dit_eval.dit import DiT
from dit_eval.generation.decode import AsyncDecoder
from dit_eval.generation.pipeline import generate
from dit_eval.io.assets import sha256
from dit_eval.runtime.precision import computation
from dit_eval.runtime.rounding import Quantizer
from dit_eval.sampling import SAMPLERS
from dit_eval.sampling.guidance import Denoiser, guided
from dit_eval.sampling.noise import ImageNoise, normals
from tests.recorded import golden_model, recorded_tensor
from tests.tiny import CONFIG, save_tiny

FORWARD = {"fp32": 1e-5, "tf32": 3e-3, "bf16": 1e-2}  # of the largest value; fp32 and bf16 hold on a CPU
CHAIN = 1e-4  # of the largest value, in fp32; 1e-5 on a CPU
LABELS = (3, 7)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def draw(weights: Path, tmp_path: Path, device: torch.device) -> Callable[..., Path]:
    def call(out: str, **options: Any) -> Path:
        settings: dict[str, Any] = {"num": 14, "steps": 6, "cfg": 1.5, "batch_size": 4, "precision": "fp32"}
        settings |= {"device": device.type} | options
        return generate(CONFIG, ckpt=weights, out=tmp_path / out, **settings)

    return call


def images(path: Path) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays["arr_0"].astype(int)


def plan(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text("utf-8"))["plan"]


def skip_without_tf32(precision: str, device: torch.device) -> None:
    if precision == "tf32" and device.type == "cpu":
        pytest.skip("needs a GPU, of which TF32 is a format")


def copied(name: str, device: torch.device) -> DiT:
    """A recorded model on the device."""
    return copy.deepcopy(golden_model(name)).requires_grad_(False).to(device)


def guided_model(name: str, device: torch.device, labels: torch.Tensor, precision: str = "fp32") -> Denoiser:
    network = copied(name, device).prepare(precision=precision)
    return guided(network, labels.to(device), null_class=10 if name == "small" else 1000, scale=1.5)


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert (found.cpu() - expected).abs().max() <= tolerance * expected.abs().max()


@contextmanager
def no_synchronisation(device: torch.device):
    """An error if the host waits for the device."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_noise_has_the_recorded_bits(device: torch.device) -> None:
    drawn = normals(2026, torch.tensor([0, 1, 49_999, 2**40], device=device), 17, 4096)
    digest = hashlib.sha256(drawn.cpu().numpy().astype("<f4").tobytes()).hexdigest()
    assert digest == "351647c6a665bc30302c65814227571334abadaf7735775a817d7afa36ecf935"


@pytest.mark.parametrize("shape", [(3, 4, 32, 32), (3, 1, 5, 5)])
def test_noise_of_every_step_has_the_bits_of_a_cpu(device: torch.device, shape: tuple[int, ...]) -> None:
    indices = torch.tensor([0, 7, 2**33])
    noise, expected = ImageNoise(5, indices.to(device)), ImageNoise(5, indices)
    assert torch.equal(noise.latents(shape).cpu(), expected.latents(shape))
    for step in (0, 1, 2, 40, 41, 249):
        assert torch.equal(noise(step, shape).cpu(), expected(step, shape))


@pytest.mark.parametrize("precision", FORWARD)
@pytest.mark.parametrize("name", ["small", "S8"])
@torch.inference_mode()
def test_guided_forward_is_the_recorded_one(device: torch.device, name: str, precision: str) -> None:
    skip_without_tf32(precision, device)
    x, t, y = (recorded_tensor("dit", key) for key in (f"{name}_x", f"{name}_cfg_t", f"{name}_cfg_y"))
    half, expected = len(x) // 2, recorded_tensor("dit", f"{name}_forward_cfg_1.5")
    with computation(precision, device):
        found = guided_model(name, device, y[:half], precision)(x[:half].to(device), int(t[0]))
    assert_near(found, expected[:half], FORWARD[precision])


@pytest.mark.parametrize(
    ("tag", "sampler", "steps", "options"),
    [("p10", "ddpm", "10", {}), ("p250", "ddpm", "250", {}), ("ddim10_eta1", "ddim", "ddim10", {"eta": 1.0})],
)
@torch.inference_mode()
def test_chain_is_the_recorded_one(
    device: torch.device, tag: str, sampler: str, steps: str, options: dict[str, Any]
) -> None:
    def noise(step: int, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(dit_weights.noise(tag, step, (4, *shape[1:])))[:2].to(device)

    start = torch.from_numpy(dit_weights.noise(f"{tag}/z", 0, (2, 4, 8, 8))).to(device)
    schedule = SAMPLERS[sampler].schedule(steps)
    with computation("fp32", device):
        denoiser = guided_model("small", device, torch.tensor(LABELS))
        found = SAMPLERS[sampler].run(denoiser, start, schedule, noise, **options)
    assert_near(found, recorded_tensor("dit", f"chain_{tag}_sample")[-1, :2], CHAIN)


@pytest.mark.parametrize(("solver", "tolerance"), [("heun", CHAIN), ("rk4", CHAIN), ("dopri5", 1e-3)])
@torch.inference_mode()
def test_flow_is_the_recorded_one(device: torch.device, solver: str, tolerance: float) -> None:
    start = torch.from_numpy(dit_weights.noise("sit/z", 0, (2, 4, 8, 8))).to(device)
    schedule = SAMPLERS["ode"].schedule(
        None if solver == "dopri5" else 9, path="linear", prediction="velocity", solver=solver
    )
    with computation("fp32", device):
        denoiser = guided_model("small", device, torch.tensor(LABELS))
        found = SAMPLERS["ode"].run(denoiser, start, schedule, None)
    method = "heun2" if solver == "heun" else solver
    assert_near(found, recorded_tensor("sit", f"ode_Linear_{method}_10_last")[:2], tolerance)


@pytest.mark.parametrize(
    ("sampler", "steps", "options"), [("ddim", 10, {"eta": 1.0}), ("ode", None, {"solver": "dopri5"})]
)
@torch.inference_mode()
def test_an_image_does_not_depend_on_its_batch(
    device: torch.device, sampler: str, steps: int | None, options: dict[str, Any]
) -> None:
    """In float64, in which another shape rounds by 1e-15."""
    run_options, schedule_options = SAMPLERS[sampler].split({**SAMPLERS[sampler].options, **options})
    schedule = SAMPLERS[sampler].schedule(steps, **schedule_options)
    model = copied("small", device).double()

    def draw(indices: list[int]) -> torch.Tensor:
        labels = torch.tensor(indices, device=device) % 10
        noise = ImageNoise(0, torch.tensor(indices, device=device))
        latents = noise.latents((len(indices), 4, 8, 8)).double()
        denoiser = guided(model, labels, null_class=10, scale=1.5)
        return SAMPLERS[sampler].run(denoiser, latents, schedule, noise, **run_options)

    together = draw(list(range(8)))
    for i in (0, 3, 7):
        torch.testing.assert_close(draw([i]), together[i : i + 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "ode", "sde"])
@torch.inference_mode()
def test_the_sampling_loop_does_not_synchronise(device: torch.device, sampler: str) -> None:
    run_options, schedule_options = SAMPLERS[sampler].split(SAMPLERS[sampler].options)
    schedule = SAMPLERS[sampler].schedule(5, **schedule_options)
    denoiser = guided_model("small", device, torch.tensor(LABELS))
    noise = ImageNoise(0, torch.arange(2, device=device))
    latents = noise.latents((2, 4, 8, 8))
    with no_synchronisation(device):
        samples = SAMPLERS[sampler].run(denoiser, latents, schedule, noise, **run_options)
    assert samples.isfinite().all()


def test_a_batch_has_the_same_bytes_every_time_and_a_cpus_images(
    device: torch.device, draw: Callable[..., Path]
) -> None:
    first = draw("first.npz")
    assert sha256(first) == sha256(draw("second.npz"))
    difference = np.abs(images(first) - images(draw("cpu.npz", device="cpu")))
    assert (difference <= 1).mean() >= 0.999


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_reduced_precision_draws_similar_images_and_names_the_card(
    device: torch.device, draw: Callable[..., Path], precision: str
) -> None:
    skip_without_tf32(precision, device)
    full, reduced = draw("full.npz"), draw("reduced.npz", precision=precision)
    assert (images(full) != images(reduced)).any()
    assert np.median(np.abs(images(full) - images(reduced))) <= 3
    assert plan(full)["device"] == device.type
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    assert plan(reduced)["device"] == name


def test_default_precision_is_tf32_on_a_gpu(device: torch.device, draw: Callable[..., Path]) -> None:
    expected = "tf32" if device.type == "cuda" else "fp32"
    assert plan(draw("default.npz", precision=None))["precision"] == expected


def test_compiled_network_draws_the_same_images(device: torch.device, draw: Callable[..., Path]) -> None:
    difference = np.abs(images(draw("eager.npz")) - images(draw("compiled.npz", compile=True)))
    assert difference.max() <= 1


def test_settings_of_the_caller_change_no_image(device: torch.device, draw: Callable[..., Path]) -> None:
    expected = sha256(draw("expected.npz"))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device.type, torch.bfloat16):
            found = sha256(draw("found.npz"))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert found == expected


@torch.inference_mode()
def test_decoder_of_another_stream_sees_finished_samples(device: torch.device) -> None:
    """Samples that are still being computed, whose memory is freed and used again at once."""

    def slow(x: torch.Tensor) -> torch.Tensor:
        """The same numbers after a while of work."""
        work = torch.eye(512, device=device)
        for _ in range(20):
            work = work @ work
        return x * work[0, 0]

    def store(stored: list[np.ndarray], images: np.ndarray, seconds: float | None) -> None:
        stored.append(images)

    quantize = Quantizer()
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(16, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(6)]
    stored: list[np.ndarray] = []
    with AsyncDecoder(lambda x: quantize(slow(x)), device) as async_decoder:
        for batch in batches:
            samples = slow(batch.to(device))
            async_decoder.submit(samples, partial(store, stored))
            del samples
            torch.full((16, 3, 64, 64), 0.5, device=device)  # may take the memory of the samples
    for batch, found in zip(batches, stored, strict=True):
        np.testing.assert_array_equal(found, Quantizer()(batch).numpy())
