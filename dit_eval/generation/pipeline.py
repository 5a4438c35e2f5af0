"""Generation: plan → sampler → decoder → shards → npz.

Every process that makes the same call samples its share of the batches and returns; the process that finishes
the last shard merges them all. Any process may be killed, and the same call resumes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dit_eval.dit import DiTConfig
from dit_eval.errors import UsageError
from dit_eval.generation.batch_sampler import BatchSampler
from dit_eval.generation.decode import AsyncDecoder, Decoder
from dit_eval.generation.model_lookup import find_model, load_model
from dit_eval.generation.plan import Plan, choose_settings, make_plan
from dit_eval.generation.shards import ShardFolder, interruption_noted
from dit_eval.runtime.distributed import Rank, StridedShard, broadcast_from_rank0, process_group
from dit_eval.runtime.malloc import keep_freed_memory
from dit_eval.runtime.precision import computation
from dit_eval.version import __version__


@dataclass(frozen=True)
class SamplingProgress:
    """The progress of this process with its share of the work."""

    done: float  # images sampled by this call, including the completed fraction of the current batch
    total: int  # images that this call samples
    flops: float  # floating-point operations of the network so far, as counted by `dit-eval flops table`


def generate(
    model: str | DiTConfig = "XL/2",
    *,
    cfg: float | None = None,
    num: int = 50_000,
    out: str | Path = "batch.npz",
    image_size: int | None = None,
    sampler: str | None = None,
    steps: int | str | None = None,
    seed: int = 0,
    labels: str | int = "uniform",
    cfg_channels: str = "3",
    cfg_interval: tuple[float, float] | None = None,
    ckpt: str | Path | None = None,
    vae: str | Path | None = None,
    batch_size: int = 32,
    precision: str = "fp32",
    compile: bool = False,
    device: str = "auto",
    fresh: bool = False,
    label: str | None = None,
    shard: tuple[int, int] | None = None,
    progress: Callable[[SamplingProgress], None] | None = None,
    **options: Any,
) -> Path:
    """Sample a batch of images from a class-conditional DiT or SiT and write it for evaluators to read.

    `out` holds the images as arr_0, (num, H, W, 3) uint8, and their classes as arr_1, (num,) int64; the JSON
    file beside it records the plan, the environment and the speed. Image i depends only on (seed, i), the
    model and the settings. The same call resumes after an interruption; under torchrun every rank makes it.

    model, ckpt, image_size: see `find_model`; vae: "ema", "mse" or a folder; labels: see `choose_labels`;
    cfg_channels: "3", as in DiT's released code, or "all"; cfg_interval: the noise levels σ (Karras et al.
    2022) between which guidance is applied; shard: (K, N) samples every N-th batch, starting with the K-th;
    fresh: delete an existing batch first; label: the batch's name in tables, kept in the record; options:
    those of the sampler, see `SAMPLERS`. None stands for the value in the model's manifest entry, else for
    the default: cfg 1.0, 250 steps, vae "ema", the sampler ddpm for a DiT and sde for a SiT.
    Returns `out`, which does not exist yet while other processes are still sampling their shares.
    Raises subclasses of DitEvalError.
    """
    out, rank = Path(out), Rank.from_environment()
    if out.suffix != ".npz":
        raise UsageError(f"{out}: choose a name that ends in .npz.")
    worker, torch_device = StridedShard.of(rank, shard), rank.device(device)
    spec = find_model(model, ckpt, image_size)
    settings = choose_settings(
        spec,
        options,
        sampler=sampler,
        steps=steps,
        num=num,
        seed=seed,
        labels=str(labels),
        cfg=cfg,
        cfg_channels=cfg_channels,
        cfg_interval=cfg_interval,
        batch_size=batch_size,
        precision=precision,
        compile=compile,
    )
    with (
        interruption_noted(out, num=num, shard_size=settings["batch_size"]),
        keep_freed_memory(torch_device),
        computation(precision, torch_device),
        torch.inference_mode(),
    ):
        network, decoder = load_model(spec, torch_device, vae=vae, image_size=image_size)
        plan = make_plan(settings, spec, network, decoder)
        batch_sampler = BatchSampler(network, plan)
        shards = ShardFolder(
            out, plan.as_json(), num=num, shard_size=plan.batch_size, image_size=plan.image_size
        )
        if fresh:
            _start_over(shards, rank, shard)
        shards.open()
        if not shards.finished():
            _sample_missing(batch_sampler, decoder, plan, shards, worker, progress)
            environment = _environment(rank, torch_device)
            macs = batch_sampler.count_flops().macs
            shards.merge(batch_sampler.labels, {"label": label, "macs": macs, "environment": environment})
        elif label is not None:
            shards.relabel(label)
    return out


def _sample_missing(
    batch_sampler: BatchSampler,
    decoder: Decoder,
    plan: Plan,
    shards: ShardFolder,
    worker: StridedShard,
    progress: Callable[[SamplingProgress], None] | None,
) -> None:
    """Sample the worker's batches whose shards are missing."""
    missing = [batch for batch in shards.missing() if worker.takes(batch)]
    done, total = 0, sum(map(shards.images_in, missing))
    network = batch_sampler.network
    flops_per_pass = batch_sampler.count_flops().flops if progress else 0

    def report_progress(fraction: float) -> None:
        if progress:
            progress(SamplingProgress(done + fraction * count, total, network.passes * flops_per_pass))

    with AsyncDecoder(decoder, network.device) as async_decoder:
        for batch in missing:
            count = shards.images_in(batch)
            samples = batch_sampler.sample(plan.indices(batch), report_progress)
            store = partial(shards.write, batch, device=_device_name(network.device))
            async_decoder.submit(samples[:count], store)
            done += count


def _start_over(shards: ShardFolder, rank: Rank, shard: tuple[int, int] | None) -> None:
    if shard is not None:
        raise UsageError(
            f"fresh would delete the work of the other shards. Delete {shards.out} and {shards.folder} by "
            "hand, then start all shards without it."
        )
    with process_group(rank):
        if rank.index == 0:
            shards.clear()
        broadcast_from_rank0(rank, True)  # no rank starts before the folder is empty


def _environment(rank: Rank, device: torch.device) -> dict[str, Any]:
    return {
        "dit_eval": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": _device_name(device),
        "processes": rank.count,
    }


def _device_name(device: torch.device) -> str:
    """The GPU, or the processor and the number of threads, to which a recorded speed refers."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor_name()}, {threads} thread{'' if threads == 1 else 's'}"


def _processor_name() -> str:
    """The model name of the processor, where the operating system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
