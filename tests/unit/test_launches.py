"""Sampling on a CUDA device, without one: kernels, casts and synchronisations per step, on fake tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from dit_eval.dit import BLOCKS, DiT, DiTConfig, build_dit, checkpoints
from dit_eval.generation import decode, pipeline
from dit_eval.generation.pipeline import generate
from dit_eval.runtime.precision import PRECISIONS
from dit_eval.sampling import SAMPLERS
from dit_eval.sampling.guidance import guided
from dit_eval.sampling.noise import ImageNoise
from tests.fake_cuda import fake_cuda
from tests.launches import CUDA, Launches, counted_launches

TINY = DiTConfig(depth=2, hidden_size=64, num_heads=2, patch_size=2)
CFG = {"no guidance": (1.0, None), "guidance": (1.5, None), "interval": (1.5, (0.3, 3.0))}
SOLVERS = ("euler", "midpoint", "heun", "heun3", "rk4")
CHAINS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ddpm": ("ddpm", "6", {}),
    "ddim": ("ddim", "6", {}),
    "ddim, eta 1": ("ddim", "ddim5", {"eta": 1.0}),
    **{f"ode, {solver}": ("ode", "6", {"solver": solver}) for solver in SOLVERS},
    "ode of noise": ("ode", "6", {"path": "vp", "prediction": "noise"}),
    "sde": ("sde", "6", {}),
    **{f"sde, {last}": ("sde", "6", {"last_step": last}) for last in ("tweedie", "euler", "none")},
    "sde, heun": ("sde", "6", {"solver": "heun", "diffusion": "kl", "path": "gvp"}),
}


def network_on_cuda(model: str | DiTConfig, precision: str, **options: Any) -> DiT:
    """A network of fake tensors; to be called within `counted_launches`."""
    with CUDA:
        dit = build_dit(model, **options).eval().requires_grad_(False)
    dit.pos_embed = dit.pos_embed.to(CUDA)
    dit.t_embedder.frequencies = dit.t_embedder.frequencies.to(CUDA)
    return dit.prepare(precision=precision, compiled=False)


def chain(sampler: str, steps: str | None, options: dict[str, Any], cfg: str) -> Callable[[DiT, int], Any]:
    """A function that draws n images with the network."""
    run_options, schedule_options = SAMPLERS[sampler].split({**SAMPLERS[sampler].options, **options})
    schedule = SAMPLERS[sampler].schedule(steps, **schedule_options)
    scale, levels = CFG[cfg]
    interval = schedule.times_between(*levels) if levels else None

    def draw(network: DiT, n: int) -> torch.Tensor:
        labels = torch.zeros(n, dtype=torch.int64, device=CUDA)
        denoiser = guided(network, labels, null_class=10, scale=scale, interval=interval)
        noise = ImageNoise(0, torch.arange(n, device=CUDA))
        return SAMPLERS[sampler].run(denoiser, noise.latents((n, 4, 8, 8)), schedule, noise, **run_options)

    return draw


def test_the_counter_counts_what_it_should() -> None:
    """Otherwise the tests below would prove nothing."""

    def counted(function: Callable[[torch.Tensor], object], conditions: int = 0) -> tuple[int, int, int]:
        with counted_launches(conditions) as launches:
            x = torch.ones(4, 4, device=CUDA)
            launches.clear()
            function(x)
        return launches.kernels.total(), launches.casts, launches.synchronisations.total()

    assert counted(lambda x: x.view(2, 8).transpose(0, 1)[0].expand(3, 2)) == (0, 0, 0)
    assert counted(lambda x: x.T.reshape(-1)) == (1, 0, 0)  # a copy
    assert counted(lambda x: x * 2 + 1) == (2, 0, 0)
    assert counted(lambda x: x.to(torch.bfloat16)) == (1, 1, 0)
    assert counted(lambda x: x.to(torch.float32)) == (0, 0, 0)
    assert counted(lambda x: float(x.sum()), 1)[2] == 1
    assert counted(lambda x: bool((x > 0).any()), 1)[2] == 1
    assert counted(lambda x: x.cpu())[2] == 1
    assert counted(lambda x: x.copy_(torch.ones(4, 4)))[2] == 1
    assert counted(lambda x: torch.where(x > 0, x, 0.0))[2] == 0
    assert counted(lambda x: x.new_full((1,), 3.0))[2] == 0
    with pytest.raises(DynamicOutputShapeException):  # raised after counting
        counted(lambda x: x[x > 0])


def test_guided_xl2_in_bf16_launches_few_kernels_and_casts() -> None:
    """Per step, guided, at batch 32: every operator of aten that computes, as `Launches` defines it.

    Views and allocations do not count; attention counts as the one fused kernel of CUDA. The noise of 16
    steps is drawn at once and here charged to four, so a long chain needs about 40 kernels a step less.
    """
    steps = 4
    with counted_launches() as launches:
        network = network_on_cuda("XL/2", "bf16")
        labels = torch.zeros(32, dtype=torch.int64, device=CUDA)
        denoiser = guided(network, labels, null_class=1000, scale=1.5)
        noise, schedule = ImageNoise(0, torch.arange(32, device=CUDA)), SAMPLERS["ddpm"].schedule(steps)
        latents = noise.latents((32, 4, 32, 32))
        launches.clear()
        SAMPLERS["ddpm"].run(denoiser, latents, schedule, noise)
    assert launches.kernels.total() / steps <= 600
    assert launches.casts / steps <= 3
    assert launches.kernels["_scaled_dot_product_flash_attention"] == 28 * steps
    assert not launches.synchronisations


@pytest.mark.parametrize("cfg", ["no guidance", "interval"])  # that of XL/2 is guided in every step
@pytest.mark.parametrize("name", CHAINS)
def test_no_sampler_with_fixed_steps_synchronises(name: str, cfg: str) -> None:
    sampler, steps, options = CHAINS[name]
    draw = chain(sampler, steps, options, cfg)
    with counted_launches() as launches:
        network = network_on_cuda(TINY, "tf32", input_size=8, num_classes=10)
        launches.clear()
        samples = draw(network, 3)
    assert samples.is_cuda
    assert launches.kernels["native_layer_norm"] >= 5 * 2 + 1
    assert not launches.synchronisations


@pytest.mark.parametrize("cfg", CFG)
@pytest.mark.parametrize(("path", "prediction"), [("linear", "velocity"), ("vp", "noise"), ("gvp", "score")])
def test_the_adaptive_solver_synchronises_once_a_step(path: str, prediction: str, cfg: str) -> None:
    draw = chain("ode", None, {"solver": "dopri5", "path": path, "prediction": prediction}, cfg)
    with counted_launches(conditions=3) as launches:
        network = network_on_cuda(TINY, "tf32", input_size=8, num_classes=10)
        launches.clear()
        samples = draw(network, 3)
    assert samples.is_cuda
    assert launches.synchronisations == {"_local_scalar_dense": 4}  # three steps and the end


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block", BLOCKS)
def test_only_attention_and_mlp_compute_in_bf16(block: str, precision: str) -> None:
    """Matrix products by dtype: three of a block's attention and MLP, or four more of cross-attention."""
    draw = chain("ddpm", "2", {}, "guidance")
    with counted_launches(), Products() as products:
        samples = draw(network_on_cuda(TINY, precision, input_size=8, num_classes=10, block=block), 3)
    assert samples.dtype == torch.float32
    expected = (7 if block == "cross-attention" else 4) * 2 * TINY.depth  # two steps
    assert products.found.count(torch.bfloat16) == (expected if precision == "bf16" else 0)
    assert set(products.found) <= {torch.float32, torch.bfloat16}


class Products(Launches):
    """Records the dtype of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "addmm", "bmm"):
            (dtype,) = {x.dtype for x in args if isinstance(x, torch.Tensor)}
            self.found.append(dtype)
        return super().__torch_dispatch__(func, types, args, kwargs)


class InThisThread:
    """Instead of a thread pool: fake tensors belong to one thread."""

    def __init__(self, workers: int) -> None: ...

    def submit(self, function: Callable[..., None], *args: Any) -> Future[None]:
        function(*args)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def shutdown(self) -> None: ...


@pytest.mark.parametrize("precision", [None, "fp32", "bf16"])
@pytest.mark.parametrize(
    "options",
    [{"sampler": "ddpm"}, {"sampler": "ddim", "cfg_interval": (0.1, 1.0)}, {"sampler": "sde"}],
    ids=lambda options: options["sampler"],
)
def test_generate_runs_on_cuda_from_weights_to_the_finished_batch(
    precision: str | None, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on the wrong device would raise. Cards are named in the plan where they decide the rounding."""
    weights = build_dit(TINY, input_size=8, in_channels=3, num_classes=10).state_dict()
    save_file(weights, tmp_path / "tiny.safetensors")
    monkeypatch.setattr(checkpoints, "load_file", lambda _: dict(weights))  # cannot read into fake tensors
    monkeypatch.setattr(decode, "ThreadPoolExecutor", InThisThread)
    monkeypatch.setattr(pipeline, "_macs", lambda _: 1)  # counted by tracing, but not with fake tensors
    with fake_cuda():
        out = generate(
            TINY,
            ckpt=tmp_path / "tiny.safetensors",
            out=tmp_path / "batch.npz",
            num=6,
            steps=5,
            cfg=1.5,
            batch_size=4,
            device="cuda",
            precision=precision,
            progress=lambda _: None,
            **options,
        )
    plan = json.loads(out.with_suffix(".json").read_text("utf-8"))["plan"]
    assert plan["precision"] == (precision or "tf32")
    assert plan["device"] == ("cuda" if precision == "fp32" else "fake CUDA device")
