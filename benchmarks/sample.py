"""Guided sampling from noise to images: ours against the straightforward loop and diffusers' DiTPipeline.

    python benchmarks/sample.py --model S/8 --model S/2 --images 4 --steps 5
    python benchmarks/sample.py --model XL/2 --images 64 --steps 20 --device cuda --precision bf16 --compile

The same random weights, DDIM steps and small VAE, in one run and in turn, round after round. The others
compute in float32, on a GPU in TF32. A ratio is the median of the rounds' ratios, above 1 where ours is
faster; the share is of the rate of large matrix products in ours' precision, measured in the same run.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import diffusers
import numpy as np
import torch
from common import keep, matmul_rate
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from dit_forward import CLASSES, same_weights
from dit_forward import straightforward as plain_forward
from torch import Tensor

from dit_eval.cost.counter import count_flops
from dit_eval.dit import DiT, model_name
from dit_eval.generation.batch_sampler import BatchSampler
from dit_eval.generation.models import DiffusionModel
from dit_eval.generation.plan import Plan
from dit_eval.runtime.malloc import keep_freed_memory_until_exit
from dit_eval.runtime.precision import PRECISIONS, computation
from dit_eval.runtime.rounding import Quantizer
from dit_eval.sampling.schedules import diffusion_schedule

SCALE = 1.5

Draw = Callable[[], np.ndarray]  # nothing → uint8 images N×H×W×3 on the host


def small_vae() -> AutoencoderKL:
    """A VAE whose work hardly counts, of one level: images have as many pixels as latents."""
    shape: dict[str, Any] = {"block_out_channels": (4,), "norm_num_groups": 2, "latent_channels": 4}
    return AutoencoderKL(**shape).eval()


def ours(batch_sampler: BatchSampler, vae: AutoencoderKL, images: int) -> Draw:
    """As `dit-eval sample` draws a batch."""
    quantize = Quantizer()

    def draw() -> np.ndarray:
        samples = batch_sampler.sample(np.arange(images), lambda fraction: None)
        return quantize(vae.decode(samples / 0.18215).sample).cpu().numpy()  # type: ignore[arg-type, union-attr]

    return draw


def straightforward(dit: DiT, vae: AutoencoderKL, images: int, steps: str, device: str) -> Draw:
    """The textbook's loop: a doubled batch through the plain forward, tables on the device, eager."""
    schedule = diffusion_schedule(steps)
    alphas = torch.from_numpy(schedule.alphas_cumprod).float().to(device)
    before = torch.from_numpy(schedule.alphas_cumprod_prev).float().to(device)
    forward = plain_forward(dit, torch.arange(images, device=device) % CLASSES)  # always at the same time t

    def draw() -> np.ndarray:
        x = torch.randn(images, 4, dit.input_size, dit.input_size, device=device)
        for k in reversed(range(len(schedule))):
            conditional, unconditional = forward(torch.cat([x, x]))[:, :4].chunk(2)
            epsilon = unconditional + SCALE * (conditional - unconditional)
            start = (x - (1 - alphas[k]).sqrt() * epsilon) / alphas[k].sqrt()
            x = before[k].sqrt() * start + (1 - before[k]).sqrt() * epsilon
        decoded: Tensor = vae.decode(x / 0.18215).sample  # type: ignore[arg-type, union-attr]
        return (127.5 * decoded + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()

    return draw


def theirs(model: DiTTransformer2DModel, vae: AutoencoderKL, images: int, steps: int) -> Draw:
    """diffusers' pipeline with the same schedule."""
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=2e-2, clip_sample=False)
    pipeline = DiTPipeline(model, vae, scheduler)  # type: ignore[arg-type]
    pipeline.set_progress_bar_config(disable=True)
    labels = [i % CLASSES for i in range(images)]

    def draw() -> np.ndarray:
        drawn = pipeline(labels, guidance_scale=SCALE, num_inference_steps=steps, output_type="np")
        return (255 * np.asarray(drawn.images)).astype(np.uint8)  # type: ignore[union-attr]

    return draw


def plan_of(images: int, steps: int, precision: str, compiled: bool, device: str) -> Plan:
    """What `dit-eval sample` would make of these options."""
    return Plan(
        model="", identity={}, decoder="", rounding="", image_size=256, num=images, seed=0,
        labels="uniform", sampler="ddim", options={"eta": 0.0}, steps=f"ddim{steps}", cfg=SCALE,
        cfg_channels="all", cfg_interval=None, cfg_times=None, batch_size=images, precision=precision,
        compile=compiled, device=device,
    )  # fmt: skip


def measure(model: str, draws: dict[str, Draw], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in each round, after one that is not counted."""
    shapes = {name: draw().shape for name, draw in draws.items()}
    assert len(set(shapes.values())) == 1, (model, shapes)
    times: dict[str, list[float]] = {name: [] for name in draws}
    for i in range(rounds):
        for name in list(draws) if i % 2 == 0 else reversed(draws):
            began = time.perf_counter()
            draws[name]()  # ends on the host
            times[name].append(time.perf_counter() - began)
    return times


@click.command()
@click.option("--model", "models", multiple=True, default=["S/8", "S/2"], show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--rounds", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Compile ours; the others stay eager.")
@click.option("--device", default="cpu", show_default=True)
def main(
    models: tuple[str, ...], images: int, steps: int, rounds: int, precision: str, compiled: bool, device: str
) -> None:
    """Time whole batch_sampler and keep the result as CSV."""
    keep_freed_memory_until_exit()  # for all of them: the setting is the process's
    place = torch.device(device)
    rows = []
    for model in map(model_name, models):
        dit, peer = same_weights(model, device)
        vae = small_vae().to(device)  # type: ignore[arg-type]
        own = copy.deepcopy(dit).prepare(precision=precision, compiled=compiled)
        drawn = DiffusionModel(own, (4, dit.input_size, dit.input_size), learned_variance=dit.learn_sigma)
        batch_sampler = BatchSampler(drawn, plan_of(images, steps, precision, compiled, device), place)
        draws = {
            "ours": ours(batch_sampler, vae, images),
            "straightforward": straightforward(dit, vae, images, f"ddim{steps}", device),
            "diffusers": theirs(peer, vae, images, steps),
        }
        mode = "tf32" if device.startswith("cuda") else "fp32"
        with torch.inference_mode(), computation(mode, place):
            rate = matmul_rate(torch.bfloat16 if precision == "bf16" else torch.float32, place)
            times = measure(model, draws, rounds)
        work = images * steps * 2 * count_flops(model, input_size=dit.input_size).flops
        for name, taken in times.items():
            rows.append(
                {
                    "model": model,
                    "images": images,
                    "steps": steps,
                    "sampler": name,
                    "precision": precision if name == "ours" else mode,
                    "compiled": compiled and name == "ours",
                    "images_per_second": f"{images / statistics.median(taken):.3f}",
                    "share_of_matmul_rate": f"{work / statistics.median(taken) / rate:.3f}",
                    "time_over_ours": f"{statistics.median(np.divide(taken, times['ours'])):.3f}",
                    "rounds": rounds,
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "diffusers": diffusers.__version__,
                }
            )
    click.echo(keep("sample", rows, device))


if __name__ == "__main__":
    main()
