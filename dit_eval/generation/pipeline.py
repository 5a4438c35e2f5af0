"""The sampling story: plan → sampler → decoder → shards → npz.

Every process that is started with the same arguments works on its share of the batches and leaves; whoever
finishes the last shard merges them all. Any of them may be killed, and the same call goes on.
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
from dit_eval.dit.checkpoints import load_dit
from dit_eval.errors import UsageError
from dit_eval.generation.batch_sampler import BatchSampler
from dit_eval.generation.decode import PIXELS, AsyncDecoder, Decoder, load_decoder
from dit_eval.generation.model_lookup import find_model
from dit_eval.generation.plan import Plan
from dit_eval.generation.shards import ShardFolder
from dit_eval.io import assets
from dit_eval.runtime.distributed import Rank, StridedShard, broadcast_from_rank0, process_group
from dit_eval.runtime.malloc import freed_memory_kept
from dit_eval.runtime.precision import PRECISIONS, matmul_precision
from dit_eval.sampling.samplers import choose_options, choose_steps, require_fitting
from dit_eval.version import __version__

_LATENT_CHANNELS = 4  # of Stable Diffusion's VAE; models of 1 or 3 channels draw pixels


@dataclass(frozen=True)
class Progress:
    """How far this process is with its share of the work."""

    drawn: float  # images of this run, the fraction of the current ones included
    wanted: int  # images of this run, when it is done
    flops: float  # floating-point operations of the network so far, by the count of `flops table`


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
    shard: tuple[int, int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Path:
    """Draw a batch of images with a class-conditional DiT or SiT and write it for evaluators to read.

    `out` holds the images as arr_0, (num, H, W, 3) uint8, and their classes as arr_1, (num,) int64; the json
    beside it says how they were made, and how fast. Image i depends on (seed, i), the model and the settings
    only. Interrupted, the same call goes on; under torchrun every rank makes the same call.

    cfg, steps, vae, image_size, sampler: None takes what the model's manifest entry says, else 1.0, 250,
    "ema", the checkpoint's own and the sampler of the model's paper. labels: see `choose_labels`.
    cfg_channels: "3", as DiT, or "all". cfg_interval: noise levels σ (of Karras et al. 2022) between which
    there is guidance. ckpt: a registered name or a file. vae: "ema", "mse" or a folder. shard: (K, N) draws
    every N-th batch, from the K-th on. fresh: forget what is there. options: those of the sampler, see
    `SAMPLERS`. Returns `out`, which is not there yet while others are still at work.
    Raises the subclasses of DitEvalError.
    """
    target, rank = Path(out), Rank.from_environment()
    _require_valid(target, precision, cfg_channels)
    share, chosen = StridedShard.of(rank, shard), rank.device(device)
    source = find_model(model, ckpt, image_size)
    sampler = sampler or source.sampler
    require_fitting(sampler, source.name, source.family)
    told = choose_options(sampler, options, source.defaults)
    with freed_memory_kept(chosen), matmul_precision(precision, chosen), torch.inference_mode():
        network = load_dit(source.weights, source.config, device=chosen)
        pixels = network.in_channels != _LATENT_CHANNELS
        if pixels and vae is not None:
            raise UsageError(f"{source.name} draws pixels, which no VAE decodes; leave --vae out.")
        decoder = PIXELS if pixels else load_decoder(str(vae or source.defaults.get("vae", "ema")), chosen)
        size = network.input_size * decoder.factor
        if image_size not in (None, size):
            raise UsageError(f"{source.name} draws images of {size} pixels, not {image_size}.")
        plan = Plan(
            model=source.name,
            weights=assets.sha256(source.weights),
            decoder=decoder.name,
            rounding=decoder.rounding,
            image_size=size,
            num=num,
            seed=seed,
            labels=str(labels),
            sampler=sampler,
            options=told,
            steps=choose_steps(steps, told, source.defaults),
            cfg=source.defaults.get("cfg", 1.0) if cfg is None else cfg,
            cfg_channels=cfg_channels,
            cfg_interval=cfg_interval,
            batch_size=min(batch_size, num),
            precision=precision,
            compile=compile,
            device=chosen.type,
        )
        batch_sampler = BatchSampler(network, plan)
        folder = ShardFolder(target, plan.settings(), num=num, size=plan.batch_size, shape=(size, size, 3))
        if fresh:
            _start_over(folder, rank, shard)
        folder.open()
        if not folder.finished():
            _draw(batch_sampler, decoder, plan, folder, share, progress)
            facts = {"macs": batch_sampler.count_flops().macs, "environment": _environment(rank, chosen)}
            folder.merge(batch_sampler.labels, facts)
    return target


def _draw(
    batch_sampler: BatchSampler,
    decoder: Decoder,
    plan: Plan,
    folder: ShardFolder,
    share: StridedShard,
    tell: Callable[[Progress], None] | None,
) -> None:
    """Draw the batches of our share that are not there yet."""
    todo = [batch for batch in folder.missing() if share.takes(batch)]
    wanted, drawn = sum(map(plan.count, todo)), 0
    flops_per_pass = batch_sampler.count_flops().flops if tell else 0

    def tell_share(share: float) -> None:
        if tell:
            tell(Progress(drawn + share * count, wanted, batch_sampler.network.passes * flops_per_pass))

    device = batch_sampler.network.device
    with AsyncDecoder(decoder, device) as async_decoder:
        for batch in todo:
            count = plan.count(batch)
            samples = batch_sampler.draw(plan.indices(batch), tell_share)
            async_decoder.submit(samples[:count], partial(folder.write, batch, device=_description(device)))
            drawn += count


def _start_over(folder: ShardFolder, rank: Rank, shard: tuple[int, int] | None) -> None:
    if shard is not None:
        raise UsageError(
            f"--fresh would delete the work of the other shards. Delete {folder.out} and {folder.folder} "
            "by hand, then start all shards without it."
        )
    with process_group(rank):
        if rank.index == 0:
            folder.clear()
        broadcast_from_rank0(rank, True)  # nobody draws before it is done


def _require_valid(out: Path, precision: str, cfg_channels: str) -> None:
    if out.suffix != ".npz":
        raise UsageError(f"the batch is an npz, and {out} is not called so; choose a name that ends in .npz.")
    for name, value, known in (
        ("precision", precision, PRECISIONS),
        ("cfg_channels", cfg_channels, ("3", "all")),
    ):
        if value not in known:
            raise UsageError(f"{name} {value!r} is not one of {', '.join(known)}.")


def _environment(rank: Rank, device: torch.device) -> dict[str, Any]:
    return {
        "dit_eval": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": _description(device),
        "processes": rank.count,
    }


def _description(device: torch.device) -> str:
    """A GPU by its name, a processor by its name and our threads on it: what a speed belongs to."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'' if threads == 1 else 's'}"


def _processor() -> str:
    """The processor as it calls itself, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
