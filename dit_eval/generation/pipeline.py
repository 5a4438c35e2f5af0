"""Generation: plan → sampler → decoder → shards → npz.

Every process that makes the same call samples its share of the batches, then helps with those of others. The
process that finishes the last shard merges them all. Any process may be killed, and the same call resumes.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from dit_eval.dit import DiTConfig
from dit_eval.errors import CostError, DitEvalWarning, UsageError
from dit_eval.generation.batch_sampler import BatchSampler
from dit_eval.generation.decode import AsyncDecoder, Decode
from dit_eval.generation.model_lookup import LoadedModel, ObjectSpec, find_model
from dit_eval.generation.models import ImageModel, Model
from dit_eval.generation.plan import Plan, choose_settings, make_plan, require_extendable
from dit_eval.generation.plugins import model_errors
from dit_eval.generation.shards import ShardFolder, interruption_noted
from dit_eval.generation.sink import ImageSink, SamplingProgress, evaluation_mode, sample_into
from dit_eval.runtime.distributed import (
    Rank,
    StridedShard,
    broadcast_from_rank0,
    failing_together,
    process_group,
)
from dit_eval.runtime.malloc import keep_freed_memory
from dit_eval.runtime.precision import computation, default_precision
from dit_eval.runtime.rounding import MAX_CLIPPED, Quantizer
from dit_eval.version import __version__


@overload
def generate(model: str | DiTConfig | Model = ..., *, into: None = None, **settings: Any) -> Path: ...
@overload
def generate(model: str | DiTConfig | Model = ..., *, into: ImageSink, **settings: Any) -> None: ...
def generate(
    model: str | DiTConfig | Model = "XL/2",
    *,
    cfg: float | None = None,
    num: int = 50_000,
    out: str | Path = "batch.npz",
    into: ImageSink | None = None,
    image_size: int | None = None,
    sampler: str | None = None,
    steps: int | str | None = None,
    seed: int = 0,
    labels: str | int = "uniform",
    cfg_channels: str | None = None,
    cfg_interval: tuple[float, float] | None = None,
    cfg_times: str | None = None,
    ckpt: str | Path | None = None,
    vae: str | Path | None = None,
    model_args: Mapping[str, Any] | None = None,
    rounding: str = "dit",
    batch_size: int = 32,
    precision: str | None = None,
    compile: bool = False,
    device: str = "auto",
    fresh: bool = False,
    extend: bool = False,
    label: str | None = None,
    shard: tuple[int, int] | None = None,
    progress: Callable[[SamplingProgress], None] | None = None,
    **options: Any,
) -> Path | None:
    """Sample a batch of images from a class-conditional model and write it to an .npz file.

    `out` holds the images as arr_0, (num, H, W, 3) uint8, and their classes as arr_1, (num,) int64; the JSON
    file beside it records the plan, the environment and the speed. Image i depends only on (seed, i), the
    model and the settings. The same call resumes after an interruption; under torchrun every rank makes it.

    into: an `Evaluator`, which gets the images of the file instead; nothing is written and None returned.
    Images that it had are forgotten, and modules of the model are in evaluation mode meanwhile.

    model, ckpt, image_size, model_args: see `find_model`; vae: "ema", "mse" or a folder; labels: see
    `choose_labels`; cfg_channels: "3", as in DiT's released code, or "all"; cfg_interval: the noise levels σ
    (Karras et al. 2022) between which guidance is applied; cfg_times: the same in the network's time,
    such as "[0, 0.7]", where a parenthesis excludes an end; rounding: how floats become uint8, see
    `ROUNDINGS`; shard: (K, N) samples every N-th batch, starting with the K-th; fresh: delete an existing
    batch first; extend: if `out` has fewer images of the same settings, keep them and sample only the others;
    label: the batch's name in tables, kept in the record; options: those of the sampler, see `SAMPLERS`. None
    stands for the value in the model's manifest entry, else for the default: cfg 1.0, 250 steps, vae "ema",
    guidance on 3 channels of DiT and SiT and on all of other models, the sampler ddpm for a diffusion model,
    sde for SiT and REPA, meanflow for average velocities and ode for other flow models, precision "tf32" on a
    CUDA device and "fp32" on a CPU.
    Returns `out`, which does not exist yet while other processes are still sampling their shares.
    Raises subclasses of DitEvalError.

    >>> dit_eval.generate("digits", num=64, steps=5, out="batch.npz").name
    'batch.npz'
    """
    out, rank = Path(out), Rank.from_environment()
    if out.suffix != ".npz":
        raise UsageError(f"{out}: choose a name that ends in .npz.")
    worker, torch_device = StridedShard.of(rank, shard), rank.device(device)
    precision = default_precision(torch_device) if precision is None else precision
    if not (into is None or isinstance(into, ImageSink)):
        raise UsageError(
            f"into is of type {type(into).__name__}; expected a dit_eval.Evaluator, or out=PATH."
        )
    spec = find_model(model, ckpt, image_size, model_args, torch_device)
    if into is not None and (shard is not None or fresh or extend):
        raise UsageError("shard, fresh and extend concern a file, and with `into` none is written.")
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
        cfg_times=cfg_times,
        rounding=rounding,
        batch_size=batch_size,
        precision=precision,
        compile=compile,
    )
    if extend:
        require_extendable(settings["labels"])
    noted = interruption_noted(out, num=num, shard_size=settings["batch_size"])
    with (
        noted if into is None else nullcontext(),
        evaluation_mode(spec.model) if isinstance(spec, ObjectSpec) else nullcontext(),
        keep_freed_memory(torch_device),
        computation(precision, torch_device),
        # Tensors that a live model keeps, such as tables, must be usable in training
        torch.inference_mode() if into is None else torch.no_grad(),
    ):
        loaded = spec.load(torch_device, settings, vae=vae, image_size=image_size)
        plan = make_plan(settings, spec.name, loaded)
        batch_sampler = BatchSampler(loaded.model, plan, torch_device)
        quantizer = Quantizer(rounding, loaded.model.value_range)
        decode = _image_decoder(loaded.model, quantizer)
        if into is not None:
            into.reset(expected=num)
            into.describe({"plan": plan.as_json()}, label)
            with process_group(rank), failing_together(rank):  # else the others wait in `compute`
                sample_into(into, batch_sampler, decode, plan, worker, progress)
            if isinstance(spec, ObjectSpec):
                _warn_of_clipping(spec.name, quantizer.clipped_share())
            return None
        shards = ShardFolder(
            out, plan.as_json(), num=num, shard_size=plan.batch_size, image_size=plan.image_size
        )
        if fresh:
            _start_over(shards, rank, shard)
        shards.open(extend=extend)
        if not shards.finished():
            _sample_missing(batch_sampler, decode, loaded, plan, shards, worker, progress)
            if isinstance(spec, ObjectSpec):
                _warn_of_clipping(spec.name, quantizer.clipped_share())
            shards.merge(
                batch_sampler.labels,
                {"label": label, "macs": _macs(loaded), "environment": _environment(rank, torch_device)},
            )
        elif label is not None:
            shards.relabel(label)
    return out


def _image_decoder(model: Model, quantizer: Quantizer) -> Decode:
    """From samples to uint8 images: the model's decoder, if it has one, then rounding."""
    decode = getattr(model, "decode", None)
    if decode is None:
        return quantizer

    def decode_to_uint8(samples: Tensor) -> Tensor:
        with model_errors("decode"):
            images = decode(samples)
        return quantizer(images)

    return decode_to_uint8


def _macs(model: LoadedModel) -> int | None:
    """Multiply-adds of one image's pass through the network; None if they cannot be counted."""
    if isinstance(model.model, ImageModel):
        return None  # counting takes as long as sampling an image
    try:
        return model.count_flops().macs
    except CostError:  # `dit-eval flops count` shows the reason; the images are worth keeping
        return None


def _warn_of_clipping(name: str, share: float) -> None:
    if share > MAX_CLIPPED:
        warnings.warn(
            f"{share:.1%} of the values that {name} returned were out of its value_range and have been "
            "clipped. Check value_range and the scale of the decoder.",
            DitEvalWarning,
            stacklevel=3,
        )


class _SampledElsewhere(Exception):
    """Another process has finished the batch that this one was about to sample, or was sampling."""


def _sample_missing(
    batch_sampler: BatchSampler,
    decode: Decode,
    model: LoadedModel,
    plan: Plan,
    shards: ShardFolder,
    worker: StridedShard,
    progress: Callable[[SamplingProgress], None] | None,
) -> None:
    """Sample the worker's batches whose shards are missing, then help with those of other workers.

    Two workers may sample the same batch: it has the same bytes, and the slower one stops.
    """
    own = list(filter(worker.takes, shards.missing()))
    done, total = 0, sum(map(shards.images_in, own))
    flops_per_pass = 2 * (_macs(model) or 0) if progress else 0

    def report_progress(fraction: float) -> None:
        if shards.has(batch):
            raise _SampledElsewhere
        if progress:
            progress(SamplingProgress(done + fraction * count, total, batch_sampler.passes * flops_per_pass))

    with AsyncDecoder(decode, model.device) as async_decoder:
        for batch in chain(own, _left_by_others(shards, worker)):
            count = shards.images_in(batch)
            total += 0 if worker.takes(batch) else count
            passes_before = batch_sampler.passes
            try:
                report_progress(0.0)
                samples = batch_sampler.sample(plan.indices(batch), report_progress)
            except _SampledElsewhere:
                total -= count
                async_decoder.restart_clock()
                continue
            passes = (batch_sampler.passes - passes_before) / plan.batch_size or None  # not counted
            store = partial(shards.write, batch, device=_device_name(model.device), passes=passes)
            async_decoder.submit(samples[:count], store)
            done += count


def _left_by_others(shards: ShardFolder, worker: StridedShard) -> Iterator[int]:
    """The batches of other workers that are missing when the first of them is asked for."""
    yield from worker.help_order(shards.missing(), len(shards))


def _start_over(shards: ShardFolder, rank: Rank, shard: tuple[int, int] | None) -> None:
    if shard is not None:
        raise UsageError(
            f"--fresh would delete the work of the other shards. Delete {shards.out} and {shards.folder} by "
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
    return f"{processor_name()}, {threads} thread{'' if threads == 1 else 's'}"


def processor_name() -> str:
    """The model name of the processor, where the operating system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
